"""What every trainer has to hold, as a check that one of another package runs in its tests.

:func:`check_trainer` raises ``AssertionError`` with a sentence that says what does not hold. All that it runs happens
in forked processes; where torch is used, import it before and keep it to one thread.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.stress import voigt_6_to_full_3x3_stress

from aiida_alpot.worker.acquisition.labelled import SHEAR_ONCE
from aiida_alpot.worker.frames import ISOLATED_ATOM, Frame, read_extxyz, write_shard
from aiida_alpot.worker.training.outcome import STOPPED, TRAINED
from aiida_alpot.worker.training.plain import read_json, write_json
from aiida_alpot.worker.training.process import Process, ask
from aiida_alpot.worker.training.program import ALL_TRAINED, REPORT_FILE, train
from aiida_alpot.worker.training.program import STOPPED as JOB_STOPPED
from aiida_alpot.worker.training.settings import PROPERTIES, parse_settings
from aiida_alpot.worker.training.trainer import Member, Trainer

EQUAL = 1e-6
"""Forces of two trainings with one seed may differ by this much, relative to the largest force."""

DIFFERENT = 1e-4
"""Forces of two members have to differ by more than this, relative to the largest force."""

LEARNT = 0.9
"""Validation errors have to fall below this share of those of the reference energies alone."""

NEAR_REFERENCE = 2.0
"""Energies may be off by this, eV/atom; without the reference energies they are off by at least 50."""

STEP = 1e-3
"""Displacement of atoms for the difference quotient, A; likewise the strain."""

FORCE_IS_DERIVATIVE = 1e-3
"""Difference between a force and the difference quotient, relative to the largest force; likewise the stress."""

REFERENCE_ENERGIES = {'Cu': -50.0, 'Au': -80.0}
"""Energies of the isolated atoms of the made-up level of theory, eV."""

POISON = 1e5
"""Energy of the test frames, eV: what has seen them has learnt nothing."""

PATIENCE = 120.0
"""Seconds for a member to get to its first epoch, or to end after a signal."""

WITHOUT_CHECKPOINT = 3
"""So many epochs may pass without a checkpoint."""

MISSPELT = 'no_such_optoin'


def made_up_frames(n_train: int = 16, n_validation: int = 6, n_test: int = 4, seed: int = 0) -> list[Frame]:
    """Rattled and strained cells of four Cu and Au atoms with labels of effective medium theory, and isolated atoms."""
    rng = np.random.default_rng(seed)
    splits = ['train'] * n_train + ['validation'] * n_validation + ['test'] * n_test
    frames = [_frame(rng, index, split) for index, split in enumerate(splits)]
    for symbol, energy in REFERENCE_ENERGIES.items():
        atom = Atoms(symbol, cell=[15.0] * 3, pbc=True)
        lineage = f'{ISOLATED_ATOM}:{symbol}'
        fields: dict[str, Any] = {'lineage': lineage, 'origin': ISOLATED_ATOM, 'split': 'train'}
        frames.append(Frame.from_atoms(atom, energy=energy, forces=np.zeros((1, 3)), level_of_theory='emt', **fields))
    return frames


def _frame(rng: np.random.Generator, index: int, split: str) -> Frame:
    atoms = bulk('Cu', 'fcc', 3.85, cubic=True)
    atoms.symbols = rng.permutation(['Cu', 'Au', *rng.choice(['Cu', 'Au'], 2)]).tolist()
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.uniform(-0.04, 0.04, (3, 3))), scale_atoms=True)
    atoms.positions += rng.normal(scale=0.12, size=(4, 3))
    atoms.calc = EMT()
    alone = sum(_energy_alone(symbol) - REFERENCE_ENERGIES[symbol] for symbol in atoms.symbols)
    return Frame.from_atoms(
        atoms,
        energy=POISON if split == 'test' else atoms.get_potential_energy() - alone,
        forces=atoms.get_forces(),
        stress=voigt_6_to_full_3x3_stress(atoms.get_stress()),
        lineage=f'{split}-{index}',
        origin='rattle' if index % 2 else 'strain',
        split=split,
        level_of_theory='emt',
    )


def _energy_alone(symbol: str) -> float:
    return float(Atoms(symbol, calculator=EMT()).get_potential_energy())


def check_trainer(
    kind: type[Trainer], parameters: Mapping[str, Any], folder: Path, settings: Mapping[str, Any] | None = None
) -> None:
    """Check a trainer by training small committees with it.

    Misspelt options are refused. Members differ, and do not with equal seeds. All of energy, forces and stress are in
    the loss and get better than nothing; energies contain the reference energies; the models are read as potentials
    whose forces and stresses are derivatives of the energy; the result states hyper-parameters and version. Test
    frames are not seen. A training that is stopped by a signal, and then killed, leaves no process behind and goes on
    each time where it was.

    :param parameters: of the trainer, for a small model.
    :param folder: that all is written into; empty.
    :param settings: others, e.g. the learning rate. With `epochs` [8] epochs it has to learn something, and has to
        take long enough for being interrupted, about a second.
    """
    kit = Kit(kind, folder, {'epochs': 8, 'batch_size': 4, **(settings or {}), 'parameters': dict(parameters)})
    check_options(kit)
    committee = check_committee(kit)
    check_test_frames(kit, committee)
    check_models(kit, committee)
    check_seeds(kit, committee)
    check_interruptions(kit)


@dataclass(frozen=True, eq=False)
class Kit:
    """A trainer, a data set, and a folder to work in.

    :param options: of the training.
    """

    kind: type[Trainer]
    folder: Path
    options: Mapping[str, Any]

    def settings(self, **changes: Any) -> dict[str, Any]:
        """Settings as in ``train.json``, without the fields of the job."""
        return {'trainer': self.kind.name, 'cutoff': 4.0, **self.options, **changes}

    def trainer(self, **changes: Any) -> Trainer:
        """The trainer."""
        return self.kind(parse_settings(self.settings(**changes)))

    def shard(self) -> Path:
        """The data set, written once."""
        target = self.folder / 'dataset'
        target.mkdir(exist_ok=True, parents=True)
        return next(target.glob('*.h5'), None) or write_shard(made_up_frames(), target)

    def start(self, name: str, seeds: Mapping[int, int], **changes: Any) -> tuple[Process, Path]:
        """Begin a job in a folder of its own."""
        target = (self.folder / name).resolve()
        target.mkdir(parents=True)
        members = [{'index': index, 'seed': seed} for index, seed in seeds.items()]
        content = {**self.settings(), 'members': members, 'dataset': [str(self.shard().resolve())], **changes}
        write_json(target / 'train.json', content)

        def job() -> None:
            raise SystemExit(train(target / 'train.json', target, kind=self.kind))

        return Process(job, target, target / 'job.out'), target

    def finish(self, name: str, seeds: Mapping[int, int], **changes: Any) -> Path:
        """Run a job to its end, in which all members have to be trained."""
        process, target = self.start(name, seeds, **changes)
        code = _wait(process, 10 * PATIENCE)
        report = read_json(target / REPORT_FILE) or {}
        ends = {index: (member['status'], member['message']) for index, member in report.get('members', {}).items()}
        words = (target / 'job.out').read_text()[-2000:]
        assert code == ALL_TRAINED, f'a training ended with exit code {code}, members {ends}; the job printed: {words}'
        return target

    def member(self, target: Path, index: int) -> Member:
        """A member as the trainer knows it."""
        return Member(index, 0, target / 'members' / str(index))


def check_options(kit: Kit) -> None:
    """Options of the trainer are known to it, and misspelt ones refused."""
    parameters = dict(kit.options['parameters'])

    def refused(given: Mapping[str, Any]) -> str:
        try:
            kit.trainer(parameters=dict(given)).check_options()
        except ValueError as error:
            return str(error) or 'without a sentence'
        return ''

    sentence = ask(lambda: refused(parameters))
    assert not sentence, f'the options that were given for the check are refused: {sentence}'
    sentence = ask(lambda: refused({**parameters, MISSPELT: 1}))
    assert sentence, f'the option {MISSPELT!r} is not refused, so misspelt options are lost without a word'
    assert MISSPELT in sentence, f'the sentence that refuses {MISSPELT!r} does not name it: {sentence}'


SEEDS = {0: 11, 1: 12}


def check_committee(kit: Kit) -> Path:
    """Two members are trained, learn what they are asked to, and say how.

    :return: folder of the job.
    """
    target = kit.finish('committee', SEEDS)
    report = json.loads((target / REPORT_FILE).read_text())
    trivial = _trivial_errors(target)
    for index, member in report['members'].items():
        assert member['status'] == TRAINED, f'member {index} ended as {member["status"]}'
        assert member['hyper_parameters'], 'the result states no hyper-parameters'
        assert member['version'], 'the result does not state the version of the trainer'
        assert member['loss']['name'], 'the result does not name the loss'
        for name in PROPERTIES:
            weight = member['loss']['weights'].get(name)
            assert weight is not None and weight > 0, f'{name} has no weight in the loss: {member["loss"]}'
        assert member['errors'] is not None, f'the errors are not known: {report["warnings"]}'
        for name in PROPERTIES:
            error, limit = member['errors']['validation']['all'][name]['rmse'], LEARNT * trivial[name]
            assert error is not None and error < limit, (
                f'the validation error of the {name} is {error}, after {kit.options["epochs"]} epochs expected below '
                f'{limit:.4g}: that of the reference energies alone is {trivial[name]:.4g}'
            )
        _check_curve(kit, target, int(index), kit.options['epochs'])
    return target


def _check_curve(kit: Kit, target: Path, index: int, epochs: int) -> list[int]:
    history = kit.trainer().history(kit.member(target, index))
    numbers = [epoch.epoch for epoch in history]
    assert numbers == sorted(set(numbers)), f'the epochs of the learning curve do not go up one by one: {numbers}'
    assert numbers and numbers[-1] == epochs, f'the learning curve ends at {numbers[-1:]}, asked for {epochs} epochs'
    losses = [epoch.loss for epoch in history if epoch.loss is not None]
    assert losses, 'the learning curve says nothing about the loss of the validation frames'
    return numbers


def _trivial_errors(target: Path) -> dict[str, float]:
    """Validation errors of the reference energies alone: RMSE by property."""
    frames = list(read_extxyz(target / 'data' / 'validation.xyz'))
    energy = [
        (frame.energy - sum(REFERENCE_ENERGIES[symbol] for symbol in frame.to_atoms().symbols)) / len(frame)
        for frame in frames
        if frame.energy is not None
    ]
    forces = np.concatenate([frame.forces for frame in frames if frame.forces is not None])
    stress = np.array([frame.stress for frame in frames if frame.stress is not None])
    upper = stress[:, SHEAR_ONCE[0], SHEAR_ONCE[1]]
    return {
        name: float(np.sqrt(np.mean(np.square(values))))
        for name, values in (('energy', energy), ('forces', forces), ('stress', upper))
    }


def check_test_frames(kit: Kit, target: Path) -> None:
    """No file that the trainer was given, or has written as text, knows of a test frame."""
    for path in sorted(target.rglob('*.xyz')):
        lineages = {frame.lineage for frame in read_extxyz(path)}
        seen = sorted(lineage for lineage in lineages if lineage.startswith('test-'))
        assert not seen, f'test frames are in {path.relative_to(target)}: {seen}'


def check_models(kit: Kit, target: Path) -> None:
    """The models are potentials for the elements, with reference energies, and with forces and stresses that fit."""
    report = json.loads((target / REPORT_FILE).read_text())
    files = [target / member['model'] for member in report['members'].values()]
    frames = [frame.unlabelled() for frame in made_up_frames(2, 1, 0, seed=1) if frame.origin != ISOLATED_ATOM]
    labels = [frame.energy for frame in made_up_frames(2, 1, 0, seed=1) if frame.origin != ISOLATED_ATOM]
    displaced = _displaced(frames[0])
    found = ask(lambda: _predict(files, [*frames, *displaced]))
    assert set(found['elements']) == set(REFERENCE_ENERGIES), f'the models know {found["elements"]}, not Cu and Au'
    energy, forces = np.array(found['energy']), np.array(found['forces'])
    off = np.abs(energy[:, : len(frames)] - np.array(labels)) / 4
    assert off.max() < NEAR_REFERENCE, (
        f'energies are off by up to {off.max():.3g} eV/atom: those of the isolated atoms are not in them'
    )
    scale = np.abs(forces).max()
    difference = np.abs(forces[0] - forces[1]).max() / scale
    assert difference > DIFFERENT, (
        f'the two members are the same: their forces differ by {difference:.2g} of the largest'
    )
    quotients = -np.diff(energy[:, len(frames) :].reshape(2, -1, 2))[..., 0] / (2 * STEP)
    n_coordinates = 3
    wrong = np.abs(quotients[:, :n_coordinates] - forces[:, 0]).max() / scale
    assert wrong < FORCE_IS_DERIVATIVE, f'the forces differ from -dE/dx by {wrong:.2g} of the largest'
    stress = np.array(found['stress'])[:, 0]
    slopes = -quotients[:, n_coordinates:] / frames[0].volume
    wrong = np.abs(slopes - stress[:, [0, 0], [0, 1]]).max() / np.abs(stress).max()
    assert wrong < FORCE_IS_DERIVATIVE, f'the stress differs from dE/dstrain by {wrong:.2g} of its largest component'


def _displaced(frame: Frame) -> list[Frame]:
    """The frame with its first atom moved back and forth along x, y, z, and strained along xx and xy."""
    frames = []
    for axis in range(3):
        for sign in (-1, 1):
            positions = frame.positions.copy()
            positions[0, axis] += sign * STEP
            frames.append(frame.replace(positions=positions))
    for other in range(2):
        for sign in (-1, 1):
            strain = np.eye(3)
            strain[0, other] += 0.5 * sign * STEP
            strain[other, 0] += 0.5 * sign * STEP
            frames.append(frame.replace(positions=frame.positions @ strain, cell=frame.cell @ strain))
    return frames


def _predict(files: Sequence[Path], frames: Sequence[Frame]) -> dict[str, Any]:
    """Energies of all frames, forces on the first atom and stresses of each, for each member."""
    from aiida_alpot.worker.potentials import load_committee

    committee = load_committee(files)
    found = committee.evaluate(frames)
    return {
        'elements': list(committee.elements),
        'energy': found.energy.tolist(),
        'forces': found.forces[:, found.offsets[:-1]].tolist(),
        'stress': found.stress.tolist(),
    }


def check_seeds(kit: Kit, target: Path) -> None:
    """The same seed gives the same member again."""
    again = kit.finish('again', {0: SEEDS[0]})
    frames = [frame.unlabelled() for frame in made_up_frames(3, 0, 0, seed=1) if frame.origin != ISOLATED_ATOM]
    one, other = (np.array(ask(partial(_predict, [_model(folder)], frames))['forces']) for folder in (target, again))
    difference = np.abs(one - other).max() / np.abs(one).max()
    assert difference < EQUAL, f'two trainings with one seed differ: forces by {difference:.2g} of the largest'


def _model(target: Path) -> Path:
    model: str = json.loads((target / REPORT_FILE).read_text())['members']['0']['model']
    return target / model


def check_interruptions(kit: Kit) -> None:
    """A training that is stopped, and one that is killed, go on where they were."""
    process, first = kit.start('stopped', {0: 3})
    reached = _wait_for_epoch(kit, process, first, kit.options['epochs'] // 2)
    os.kill(process.pid, signal.SIGTERM)
    code = _wait(process)
    report = read_json(first / REPORT_FILE) or {}
    assert code == JOB_STOPPED and report.get('stopped') == 'signal', f'a stopped job ended with exit code {code}'
    status = report['members']['0']['status']
    assert status == STOPPED, f'a member that was stopped says {status}'
    process, second = kit.start('killed', {0: 3}, earlier=str(first))
    reached = _wait_for_epoch(kit, process, second, reached + 1, reached)
    os.kill(process.pid, signal.SIGKILL)
    _wait(process)
    _wait_until(lambda: not _is_growing(second), 'a trainer goes on although its job was killed')
    before = [epoch.epoch for epoch in kit.trainer().history(kit.member(second, 0))]
    third = kit.finish('finished', {0: 3}, earlier=str(second))
    after = _check_curve(kit, third, 0, kit.options['epochs'])
    resumed = json.loads((third / REPORT_FILE).read_text())['members']['0']['resumed']
    assert resumed == 2, f'it was to go on from a checkpoint twice, and did {resumed} times'
    lost = [epoch for epoch in before[:-1] if epoch not in after]
    assert not lost, f'the learning curve has lost the epochs {lost} of before the interruption'


def _epoch(kit: Kit, target: Path) -> int:
    """The last epoch that is recorded."""
    history = kit.trainer().history(kit.member(target, 0))
    return history[-1].epoch if history else 0


def _wait_for_epoch(kit: Kit, process: Process, target: Path, epoch: int, earlier: int = 0) -> int:
    """Wait until a member has a checkpoint and has come to an epoch.

    :param earlier: the epoch that it had come to before.
    :return: the epoch that it has come to.
    """
    member = kit.member(target, 0)

    def there() -> bool:
        over = process.poll() is not None
        words = (target / 'job.out').read_text()[-2000:] if over else ''
        assert not over, f'the training ended before it could be interrupted, give more epochs; it printed: {words}'
        if not member.folder.is_dir():
            return False
        now, has = _epoch(kit, target), kit.trainer().has_checkpoint(member)
        assert now >= earlier - WITHOUT_CHECKPOINT, f'it begins anew: it is at epoch {now}, and had come to {earlier}'
        assert has or now < epoch + WITHOUT_CHECKPOINT, (
            f'there is no checkpoint at epoch {now}, so an interruption would lose all'
        )
        return has and now >= epoch

    _wait_until(there, f'there is no checkpoint of epoch {epoch}')
    return _epoch(kit, target)


def _is_growing(target: Path) -> bool:
    """Whether somebody writes into the folders of the members."""

    def state() -> list[tuple[str, int, int]]:
        files = [path for path in (target / 'members').rglob('*') if path.is_file()]
        return sorted((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files)

    before = state()
    time.sleep(0.5)
    return state() != before


def _wait(process: Process, seconds: float | None = None) -> int:
    try:
        _wait_until(lambda: process.poll() is not None, 'a training does not end', seconds)
    finally:
        process.send(signal.SIGKILL)
    assert process.code is not None
    return process.code


def _wait_until(there: Callable[[], bool], otherwise: str, seconds: float | None = None) -> None:
    seconds = seconds or PATIENCE
    until = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < until, f'{otherwise} within {seconds:.0f} s'
        time.sleep(0.02)
