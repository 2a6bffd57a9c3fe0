"""A made-up campaign, for the tests of what is shown of campaigns."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import numpy as np
import pytest

from aiida_alpot.report.record import (
    CalibrationRecord,
    CampaignRecord,
    Errors,
    Failure,
    Labelling,
    Predictions,
    Round,
    Scores,
    Stage,
    Trajectory,
)

SIZES = {'train': 30, 'validation': 10, 'test': 12}


def made_up_predictions(seed: int, noise: float, n_train: int = 30) -> Predictions:
    """Frames of 2 to 16 atoms whose force errors are twice the deviation of the committee on average."""
    rng = np.random.default_rng(seed)
    split = np.repeat(['train', 'validation', 'test'], [n_train, SIZES['validation'], SIZES['test']])
    n_atoms = rng.choice([2, 8, 16], size=len(split))
    n, total = len(split), int(n_atoms.sum())
    energy = n_atoms * (-107.2 + rng.gamma(1.0, 0.08, size=n))
    forces = rng.normal(scale=0.9, size=(total, 3))
    spread = noise * rng.lognormal(0, 0.6, size=total) * np.where(np.repeat(split == 'train', n_atoms), 0.5, 1)
    stress = rng.normal(scale=0.02, size=(n, 3, 3))
    stress = (stress + stress.transpose(0, 2, 1)) / 2
    return Predictions(
        split=split,
        origin=np.array(['rattle'] * n),
        n_atoms=n_atoms,
        offsets=np.concatenate([[0], np.cumsum(n_atoms)]),
        energy_ref=energy,
        energy_pred=energy + n_atoms * rng.normal(scale=noise / 20, size=n),
        forces_ref=forces,
        forces_pred=forces + 1.2 * spread[:, None] * rng.normal(size=(total, 3)),
        stress_ref=stress,
        stress_pred=stress + rng.normal(scale=noise / 80, size=(n, 3, 3)),
        force_deviation=spread,
        energy_deviation=np.abs(rng.normal(scale=noise / 20, size=n)),
    )


def made_up_trajectories(noise: float) -> tuple[Trajectory, ...]:
    """Of three temperatures; with much noise the hottest halts early."""
    rng = np.random.default_rng(1)
    made = []
    for temperature in (300.0, 600.0, 900.0):
        time = np.arange(40) * 0.02
        error = noise * temperature / 300 * (0.5 + time) * rng.lognormal(0, 0.2, size=40)
        error[0] = 1e-12  # a perfect crystal
        crossed = np.flatnonzero(error > 0.45)
        last = crossed[0] + 1 if len(crossed) else 40
        made.append(Trajectory(temperature, 'halted' if len(crossed) else 'completed', time[:last], error[:last]))
    return tuple(made)


def made_up_round(number: int, n_selected: int = 10, noise: float = 0.1, **fields: Any) -> Round:
    """A complete round; its errors shrink with the noise."""
    rng = np.random.default_rng(number)
    n_pool = 60
    frame_id = np.array([f'{number}-{index:03d}' for index in range(n_pool)])
    expected = 1.5 * noise * rng.lognormal(0, 0.5, size=n_pool)
    expected[:3] = np.nan
    above = np.flatnonzero(expected > 0.15)
    picked = frame_id[above[:n_selected]].tolist()
    n_train = 30 + 8 * (number - 1)
    metrics = {
        split: {
            name: Errors(
                scale * noise * factor,
                0.8 * scale * noise * factor,
                100,
                members=tuple(scale * noise * factor * member for member in (1.05, 1.2, 1.12)),
            )
            for name, scale in (('energy', 0.05), ('forces', 1.2), ('stress', 0.0125))
        }
        for split, factor in (('train', 0.5), ('validation', 0.9), ('test', 1.0))
    }
    values: dict[str, Any] = {
        'number': number,
        'n_labelled': n_train + 10 + (12 if number > 1 else 0),
        'labels': {'train': n_train, 'validation': 10, 'test': 12},
        'n_pool': n_pool,
        'n_rejected': 3,
        'n_candidates': len(above),
        'n_selected': len(picked),
        'metrics': metrics,
        'calibration': {
            name: CalibrationRecord(1.9, 1.9, 0.2, 0.41, 0.62, 0.58, 90, 10, True, '') for name in ('forces', 'energy')
        },
        'thresholds': {'forces': {'tolerance': 0.15, 'deviation': 0.15 / 1.9}, 'energy': None},
        'predictions': made_up_predictions(number, noise, n_train),
        'scores': Scores(frame_id=frame_id, expected_force_error=expected, max_force_deviation=expected / 1.9),
        'selected': dict.fromkeys(picked, 'expected force error 0.2 > 0.15 eV/A'),
        'rejected': {frame_id[index]: 'two atoms are 0.5 A apart' for index in range(3)},
        'pks': {'dataset': 100 * number, 'committee': 100 * number + 1},
        'trajectories': made_up_trajectories(2 * noise) if number != 2 else (),
        'bound': 0.45,
    }
    return Round(**(values | fields))


@pytest.fixture
def make_round() -> Callable[..., Round]:
    """Factory of made-up rounds."""
    return made_up_round


@pytest.fixture
def make_record() -> Callable[..., CampaignRecord]:
    """Factory of made-up campaigns of silicon: three rounds, one failed label, ended by ``max_rounds``."""

    def factory(**fields: Any) -> CampaignRecord:
        stages, pk = [], 10
        plan = [('augmentation', 'start', 4.0), ('labelling_initial', 'start', 70.0)]
        for number in (1, 2, 3):
            plan.append((f'training_{number}', f'round {number}', 95.0))
            if number == 1:
                plan += [('exploration_test', 'test set', 31.0), ('labelling_test', 'test set', 44.0)]
            plan += [
                (f'exploration_{number}', f'round {number}', 30.0),
                (f'evaluation_{number}', f'round {number}', 9.0),
            ]
            plan += [(f'labelling_{number}', f'round {number}', 40.0)] if number < 3 else []
        for label, part, seconds in plan:
            pk += 1
            stages.append(Stage(label, label.partition('_')[0], part, pk, seconds, 'finished'))
        values: dict[str, Any] = {
            'pk': 7,
            'uuid': '12345678-aaaa-bbbb-cccc-1234567890ab',
            'label': 'silicon',
            'state': 'finished',
            'exit_status': 0,
            'exit_message': '',
            'ended_by': 'max_rounds',
            'started': datetime(2026, 11, 20, 6, 0, tzinfo=timezone.utc),
            'seconds': 600.0,
            'elements': ('Si',),
            'rounds': tuple(made_up_round(number, noise=0.2 * 0.6**number) for number in (1, 2, 3)),
            'labellings': (Labelling('labelling_initial', 41, 40, 1), Labelling('labelling_test', 12, 12, 0)),
            'failures': (
                Failure('labelling_initial', 'f' * 64, 3, 77, 410, 'The electronic minimization <cycle> failed'),
            ),
            'stages': tuple(stages),
            'n_processes': 400,
            'n_data': 900,
            'outputs': {'results': 990, 'dataset': 300, 'committee': 301, 'calibration': 302},
            'targets': {'energy': None, 'forces': 0.06, 'stress': None},
            'tolerance': {'forces': 0.15, 'energy': None},
            'settings': {'max_rounds': 3, 'patience': 1, 'seed': 4, 'evaluation.parameters': {'max_select': 10}},
            'codes': {'labelling.pw.pw.code': 'pw@localhost (/usr/bin/pw.x)'},
        }
        return CampaignRecord(**(values | fields))

    return factory
