"""The console program ``alpot-evaluate``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aiida_alpot.worker.acquisition.config import parse_config
from aiida_alpot.worker.acquisition.evaluate import evaluate, main, run
from aiida_alpot.worker.frames import FrameStore, write_shard
from aiida_alpot.worker.frames.frame import Frame


@pytest.fixture
def write_config(
    tmp_path: Path, lj_files: Callable, dataset: list[Frame], make_argon: Callable, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    """Factory of a configuration with its files; the pool has 20 new frames, a duplicate and one of the data set."""
    pool = make_argon(20, 5)

    def write(**changes: Any) -> Path:
        (tmp_path / 'work').mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / 'work')
        given = {
            'committee': [str(path) for path in lj_files(2)],
            'pool': [str(write_shard(pool, tmp_path)), str(write_shard([pool[3], dataset[0].unlabelled()], tmp_path))],
            'dataset': [str(write_shard(dataset, tmp_path))],
            'tolerance': {'energy': None, 'forces': 0.01},
            'selector': 'threshold_random',
            'max_select': 5,
            'gate': {'min_distance': 0.3, 'max_force': 50.0},
            'seed': 1,
            **changes,
        }
        (tmp_path / 'work' / 'config.json').write_text(json.dumps(given))
        return tmp_path / 'work' / 'config.json'

    return write


def report() -> dict[str, Any]:
    return json.loads(Path('evaluation.json').read_text())


def test_the_whole(write_config: Callable, dataset: list[Frame]) -> None:
    assert main([str(write_config())]) == 0
    found = report()
    for name in ('forces', 'energy'):
        calibration = found['calibration'][name]
        assert calibration['slope'] == pytest.approx(4.0, rel=1e-9)
        assert calibration['trustworthy'] and calibration['r2'] == pytest.approx(1.0) and calibration['coverage'] == 1.0
    assert found['calibration']['forces']['n_frames'] == 12 and found['calibration']['forces']['n'] == 12
    assert found['thresholds'] == {'forces': {'tolerance': 0.01, 'deviation': pytest.approx(0.0025)}, 'energy': None}
    assert found['counts']['pool'] == 22 and found['counts']['rejected'] == 2 and found['counts']['selected'] == 5
    assert [r['index'] for r in found['rejected']] == [20, 21]
    assert found['counts']['above_threshold'] > 5
    for pick in found['selection']:
        assert pick['expected_force_error'] == pytest.approx(4 * pick['max_force_deviation'], rel=1e-9)
        assert pick['expected_force_error'] > 0.01 and 'drawn among' in pick['reason']
    assert set(found['metrics']) == {'train', 'validation', 'test'}


def test_arrays(write_config: Callable, dataset: list[Frame]) -> None:
    main([str(write_config())])
    scores, predictions = np.load('scores.npz'), np.load('predictions.npz')
    assert set(scores) == {
        'origin',
        'frame_id',
        'energy_deviation',
        'max_force_deviation',
        'mean_force_deviation',
        'stress_deviation',
        'expected_energy_error',
        'expected_force_error',
    }
    assert all(scores[name].shape == (22,) for name in scores)
    assert np.flatnonzero(np.isnan(scores['expected_force_error'])).tolist() == [20, 21]
    assert predictions['frame_id'].tolist() == [f.frame_id for f in dataset]
    assert predictions['offsets'][-1] == len(predictions['forces_ref']) == len(predictions['force_deviation'])
    assert np.array_equal(predictions['forces_ref'][:4], dataset[0].forces)
    assert predictions['isolated'].sum() == 1 and predictions['split'].tolist() == [f.split for f in dataset]
    # Mean well 1.05, labels of 1.25.
    ordinary = ~predictions['isolated']
    assert np.allclose(
        predictions['energy_pred'][ordinary] * 1.25 / 1.05, predictions['energy_ref'][ordinary], rtol=1e-10
    )


def test_selected_frames(write_config: Callable, make_argon: Callable) -> None:
    main([str(write_config())])
    (shard,) = Path('selected').iterdir()
    pool = make_argon(20, 5)
    picks = sorted(report()['selection'], key=lambda pick: pick['index'])
    with FrameStore([shard]) as selected:
        assert [f.frame_id for f in selected] == [pick['frame_id'] for pick in picks]
        for frame, pick in zip(selected, picks, strict=True):
            assert np.array_equal(frame.positions, pool[pick['index']].positions)
            assert frame.lineage == pool[pick['index']].lineage and frame.energy is None
            assert frame.metadata['selected'] == pick['reason'] and frame.metadata['generated']


def test_same_input_same_bytes(write_config: Callable) -> None:
    main([str(write_config())])
    files = [path for path in sorted(Path.cwd().rglob('*')) if path.is_file()]
    before = {path: path.read_bytes() for path in files}
    assert len(files) == 7 and sum(path.parent.parent.name == 'predictions' for path in files) == 2
    main([str(write_config())])
    assert before == {path: path.read_bytes() for path in sorted(Path.cwd().rglob('*')) if path.is_file()}


def test_nothing_selected_is_a_normal_outcome(write_config: Callable) -> None:
    """Peer defect 13: nothing selected crashed."""
    assert main([str(write_config(tolerance={'forces': 1e6}))]) == 0
    found = report()
    assert found['selection'] == [] and found['counts']['selected'] == found['counts']['above_threshold'] == 0
    assert not Path('selected').exists()


def test_without_a_pool(write_config: Callable) -> None:
    assert main([str(write_config(pool=[]))]) == 0
    assert report()['counts']['pool'] == 0 and report()['calibration']['forces']['trustworthy']
    assert np.load('scores.npz')['energy_deviation'].shape == (0,)


def test_without_labels_the_deviation_is_taken_for_the_error(write_config: Callable) -> None:
    assert main([str(write_config(dataset=[]))]) == 0
    found = report()
    assert found['calibration']['forces']['slope'] == 1.0 and not found['calibration']['forces']['trustworthy']
    assert 'no held-out labels' in found['calibration']['forces']['reason']
    assert found['thresholds']['forces']['deviation'] == 0.01
    assert found['metrics']['train']['energy']['rmse'] is None


def test_too_few_labels_fall_back(write_config: Callable) -> None:
    assert main([str(write_config(min_calibration_frames=50))]) == 0
    calibration = report()['calibration']['forces']
    assert calibration['reason'] == '12 held-out frames, at least 50 are needed'
    assert calibration['rule'].startswith('max(1') and calibration['slope'] >= calibration['fitted_slope']


@pytest.mark.parametrize(
    ('changes', 'sentence'),
    [
        ({'max_selct': 1}, "Did you mean 'max_select'?"),
        ({'pool': ['nowhere.h5']}, 'there is no shard nowhere.h5, which `pool` names'),
        ({'committee': ['a.json', 'b.json']}, 'there is no potential at a.json'),
        ({'gate': {'min_distance': 9}}, '`min_distance` is 9'),
    ],
)
def test_bad_input_is_a_sentence(
    write_config: Callable, changes: dict, sentence: str, capsys: pytest.CaptureFixture
) -> None:
    assert main([str(write_config(**changes))]) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.startswith('alpot-evaluate: ') and 'Traceback' not in error
    assert not Path('evaluation.json').exists()


def test_one_member(write_config: Callable, lj_files: Callable, capsys: pytest.CaptureFixture) -> None:
    assert main([str(write_config(committee=[str(lj_files(1)[0])]))]) == 2
    assert 'needs a committee of at least 2 members, found 1' in capsys.readouterr().err


def test_data_set_of_other_elements(
    write_config: Callable, dataset: list[Frame], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    neon = write_shard([dataset[0].replace(numbers=np.full(4, 10))], tmp_path)
    assert main([str(write_config(dataset=[str(neon)]))]) == 2
    assert 'the data set contains Ne, which the committee (of Ar) does not know' in capsys.readouterr().err


def test_as_a_library_on_plain_lists(
    write_config: Callable, dataset: list[Frame], make_argon: Callable, make_committee: Callable
) -> None:
    settings = json.loads(write_config().read_text())
    config = parse_config(settings)
    evaluation = evaluate(config, make_committee(), make_argon(20, 5), dataset)
    stored = run(config, Path.cwd())
    picks = [pick.index for pick in evaluation.selection.picks]
    assert picks == [pick.index for pick in stored.selection.picks]
    spoilt = make_argon(20, 5)[7].frame_id
    spoiled = evaluate(config, make_committee(lambda f: f.frame_id == spoilt), make_argon(20, 5), dataset)
    assert [(r['index'], 'not finite' in r['reason']) for r in spoiled.report()['rejected']] == [(7, True)]
