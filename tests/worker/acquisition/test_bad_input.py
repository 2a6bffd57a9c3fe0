"""Input that cannot be evaluated as asked: each a sentence, or a fallback that is reported. With small MACE models."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aiida_alpot.worker.acquisition.config import read_config
from aiida_alpot.worker.acquisition.evaluate import main, run
from aiida_alpot.worker.acquisition.representations import REPRESENTATIONS, Representation
from aiida_alpot.worker.acquisition.selectors import RULES, SELECTORS
from aiida_alpot.worker.frames import write_shard
from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.potentials import load_committee

N_POOL = 12


def structures(n: int, seed: int, numbers: tuple[int, ...] = (6, 14) * 4) -> list[Frame]:
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(2)] * 3, indexing='ij'), axis=-1).reshape(-1, 3) * 2.2
    return [
        Frame(
            np.array(numbers),
            grid + rng.normal(scale=0.1, size=(8, 3)),
            4.4 * np.eye(3),
            (True, True, True),
            origin='md',
            lineage=f'{seed}-{i}',
        )
        for i in range(n)
    ]


@pytest.fixture
def labelled(mace_files: Callable) -> Callable[..., list[Frame]]:
    """Factory of 24 frames with labels near what the first member predicts; the splits are given in turn."""
    frames = structures(24, 0)
    found = load_committee(mace_files(['C', 'Si'])).evaluate(frames, members=[0])

    def make(*splits: str) -> list[Frame]:
        return [
            frame.replace(
                energy=float(found.energy[0, i]),
                forces=1.2 * found.forces[0, 8 * i : 8 * i + 8],
                level_of_theory='first member',
                split=splits[i % len(splits)],
            )
            for i, frame in enumerate(frames)
        ]

    return make


@pytest.fixture
def broken(mace_files: Callable, tmp_path: Path) -> str:
    """File of a model that predicts NaN."""
    import torch

    model = torch.load(mace_files(['C', 'Si'])[0], weights_only=False)
    for parameter in model.readouts.parameters():
        parameter.data.fill_(float('nan'))
    torch.save(model, tmp_path / 'broken.model')
    return str(tmp_path / 'broken.model')


@pytest.fixture
def write(
    tmp_path: Path, mace_files: Callable, labelled: Callable, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    """Factory of the settings of an evaluation with its files; ``pool`` and ``dataset`` are frames."""
    monkeypatch.chdir(tmp_path)

    def make(pool: list[Frame] | None = None, dataset: list[Frame] | None = None, **changes: Any) -> Path:
        pool = structures(N_POOL, 1) if pool is None else pool
        dataset = labelled('train', 'validation') if dataset is None else dataset
        config = {
            'committee': [str(path) for path in mace_files(['C', 'Si'])],
            'pool': [str(write_shard(pool, tmp_path / 'pool'))] if pool else [],
            'dataset': [str(write_shard(dataset, tmp_path / 'dataset'))] if dataset else [],
            'tolerance': {'forces': 1e-6, 'energy': 1e-9},
            'gate': {'min_distance': 0.2, 'max_force': 1e9},
            'max_select': 4,
            **changes,
        }
        Path('config.json').write_text(json.dumps(config))
        return Path('config.json')

    return make


@pytest.fixture
def report(write: Callable) -> Callable[..., dict]:
    """Run ``alpot-evaluate`` and give what it reports."""

    def evaluate(**changes: Any) -> dict:
        assert main([str(write(**changes))]) == 0
        return json.loads(Path('evaluation.json').read_text())

    return evaluate


@pytest.fixture
def refused(write: Callable, tmp_path: Path) -> Callable[..., None]:
    """Check that an evaluation is refused with a sentence, and leaves nothing."""

    def evaluate(sentence: str, error: type[Exception] = ValueError, **changes: Any) -> None:
        path = write(**changes)
        with pytest.raises(error, match=sentence):
            run(read_config(path), tmp_path)
        assert not Path('evaluation.json').exists()

    return evaluate


class TestMembers:
    @pytest.mark.parametrize(
        ('elements', 'cutoff', 'sentence'),
        [
            (['C', 'O'], 4.0, r'different elements, \[\[6, 14\], \[6, 8\]\]: train them alike'),
            (['C', 'Si'], 5.0, r'different cutoffs, \[4.0, 5.0\]: train them alike'),
        ],
    )
    def test_of_different_elements_or_cutoffs(
        self, write: Callable, mace_files: Callable, capsys: pytest.CaptureFixture, elements, cutoff, sentence
    ):
        committee = [str(mace_files(['C', 'Si'])[0]), str(mace_files(elements, 1, cutoff)[0])]
        assert main([str(write(committee=committee))]) == 2
        error = capsys.readouterr().err
        assert error.startswith('alpot-evaluate: the members of a committee have ') and 'Traceback' not in error
        with pytest.raises(ValueError, match=sentence):
            load_committee(committee)

    @pytest.mark.parametrize('signal', ['committee', 'committee_maximum'])
    def test_one_cannot_disagree(self, write: Callable, mace_files, capsys: pytest.CaptureFixture, signal: str):
        assert main([str(write(committee=[str(mace_files(['C', 'Si'])[0])], signal=signal))]) == 2
        assert f"the signal '{signal}' needs a committee of at least 2 members, found 1" in capsys.readouterr().err

    def test_that_state_no_uncertainty(self, refused: Callable):
        refused('potentials do not state how uncertain .* `llpr` of metatrain', signal='llpr')


class TestPool:
    def test_an_element_that_the_model_does_not_know(self, report: Callable):
        """Such a frame is refused by the gate; the others are evaluated."""
        found = report(pool=[*structures(3, 1), *structures(1, 2, (6, 8) * 4)])
        assert [(r['index'], r['reason']) for r in found['rejected']] == [(3, 'the committee does not know O')]
        assert found['counts']['selected'] == 3

    @pytest.mark.parametrize('name', [*SELECTORS, *RULES])
    def test_fewer_frames_than_are_asked_for(self, report: Callable, name: str):
        found = report(pool=structures(2, 1), selector=name, max_select=10)
        assert sorted(pick['index'] for pick in found['selection']) == [0, 1]

    @pytest.mark.parametrize('name', [*SELECTORS, *RULES])
    def test_of_one_frame_many_times(self, report: Callable, name: str):
        """The same structure in other trajectories, too: the gate names the first."""
        frame = structures(1, 1)[0]
        found = report(pool=[frame.replace(lineage=f'run {i}') for i in range(6)], selector=name)
        assert [pick['index'] for pick in found['selection']] == [0]
        assert {r['reason'] for r in found['rejected']} == {'duplicate of frame 0 of the pool'}
        assert found['counts']['rejected'] == 5

    @pytest.mark.parametrize('name', RULES)
    def test_features_that_are_all_zero(self, report: Callable, monkeypatch: pytest.MonkeyPatch, name: str):
        """They equal those of the labelled frames: a rule in feature space knows them all, and the report says that
        there were candidates. Farthest points are those of the pool alone, which has to begin with one."""
        zero = Representation(of_frames=lambda frames, elements_of_model: np.zeros((len(frames), 4)))
        monkeypatch.setitem(REPRESENTATIONS, 'nothing', zero)
        found = report(selector=name, representation='nothing')
        assert len(found['selection']) == found['counts']['selected'] == (name == 'farthest_point')
        assert found['counts']['above_threshold'] == N_POOL


class TestPredictions:
    def test_that_are_nan_are_in_the_report_of_the_gate(self, report: Callable, mace_files: Callable, broken: str):
        found = report(committee=[str(mace_files(['C', 'Si'])[0]), broken], selector='lcmd')
        assert found['counts']['rejected'] == N_POOL and found['selection'] == []
        assert {r['reason'] for r in found['rejected']} == {
            'a member of the committee predicts energies or forces that are not finite'
        }
        assert not found['calibration']['forces']['trustworthy']

    def test_of_every_training_frame_are_nan(self, refused: Callable, broken: str):
        sentence = 'none of the 12 training frames has a finite energy and finite features'
        refused(sentence, committee=[broken], signal='residual_process')


class TestLabels:
    @pytest.mark.parametrize('kind', ['linear', 'isotonic', 'conformal', 'false_negative'])
    def test_none_held_out(self, report: Callable, labelled: Callable, kind: str):
        """Every disagreement counts at least as an error of its own size, and it is said why."""
        found = report(dataset=labelled('train'), calibration=kind)
        for name in ('forces', 'energy'):
            calibration = found['calibration'][name]
            assert not calibration['trustworthy']
            assert calibration['reason'].startswith('there are no held-out labels with finite predictions: assign')
        pick = found['selection'][0]
        assert pick['expected_force_error'] == pytest.approx(pick['max_force_deviation'])

    @pytest.mark.parametrize(
        ('signal', 'sentence'),
        [
            ('extrapolation_grade', 'needs labelled frames with split `train` to choose its active sets from'),
            ('residual_process', 'needs labelled frames with split `train`: give the data set'),
        ],
    )
    @pytest.mark.parametrize('has_some', [False, True])
    def test_none_to_train_the_signal_on(
        self, refused: Callable, labelled: Callable, signal: str, sentence: str, has_some: bool
    ):
        refused(sentence, dataset=labelled('validation') if has_some else [], signal=signal)

    def test_of_elements_that_the_model_does_not_know(
        self, write: Callable, labelled: Callable, capsys: pytest.CaptureFixture
    ):
        foreign = structures(1, 5, (6, 8) * 4)[0].replace(energy=-1.0, level_of_theory='first member')
        assert main([str(write(dataset=[*labelled('train'), foreign]))]) == 2
        assert 'the data set contains O, which the committee (of C, Si) does not know' in capsys.readouterr().err


class TestLibraries:
    """What is not installed is named, with the command that installs it."""

    @pytest.mark.parametrize(
        ('module', 'changes', 'sentence'),
        [
            (
                'sklearn.cluster',
                {'signal': {'name': 'extrapolation_grade', 'clusters': 'birch'}},
                'BIRCH is that of scikit-learn, which is not installed: run `pip install scikit-learn`',
            ),
            (
                'sklearn.cluster',
                {'selector': {'name': 'direct', 'clustering': 'birch'}},
                '`birch` needs scikit-learn, which is not installed: run `pip install scikit-learn`',
            ),
            ('featomic', {'selector': 'lcmd', 'representation': 'soap'}, 'needs the package featomic'),
            (
                'rdkit.Chem.rdFingerprintGenerator',
                {'selector': 'lcmd', 'representation': 'morgan'},
                'needs the package rdkit',
            ),
        ],
    )
    def test_that_are_missing(
        self, refused: Callable, monkeypatch: pytest.MonkeyPatch, module: str, changes: dict, sentence: str
    ):
        monkeypatch.setitem(sys.modules, module, None)
        if changes.get('representation') == 'morgan':
            molecules = [frame.replace(pbc=(False,) * 3) for frame in structures(4, 1)]
            changes = {**changes, 'pool': molecules, 'dataset': []}
        refused(sentence, ImportError, **changes)

    def test_birch_of_environments(self, report: Callable):
        pytest.importorskip('sklearn')
        found = report(signal={'name': 'extrapolation_grade', 'clusters': 'birch', 'n_clusters': 2})
        assert found['signal']['sets'] and found['counts']['selected'] == 4

    def test_fingerprints_of_crystals(self, refused: Callable):
        refused('frame 0 is periodic: fingerprints are for molecules', selector='lcmd', representation='morgan')
