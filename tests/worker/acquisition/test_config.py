"""Settings of an evaluation."""

from __future__ import annotations

from pathlib import Path

import pytest

from aiida_alpot.worker.acquisition.config import Choice, parse_config, read_config

GOOD = {'committee': ['a.json', 'b.json'], 'pool': ['p.h5'], 'tolerance': {'forces': 0.1}}


def test_defaults() -> None:
    config = parse_config(GOOD)
    assert (
        config.selector == Choice('threshold_random')
        and config.gate.min_distance == 0.6
        and config.tolerance.energy is None
    )


def test_all_settings_of_the_format() -> None:
    config = parse_config(
        {
            **GOOD,
            'dataset': ['d.h5'],
            'device': 'cuda',
            'dtype': 'float32',
            'batch_size': 8,
            'tolerance': {'energy': None, 'forces': 0.1},
            'signal': 'committee',
            'calibration': 'linear',
            'selector': 'top_k',
            'max_select': 3,
            'gate': {'min_distance': 0.5, 'max_force': 20.0},
            'seed': 4,
        }
    )
    assert config.gate.max_force == 20.0 and config.max_select == 3


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'max_selct': 3}, "unknown setting 'max_selct'. Did you mean 'max_select'?"),
        ({'gate': {'min_dist': 0.5}}, "unknown setting of `gate` 'min_dist'. Did you mean 'min_distance'?"),
        ({'tolerance': {'force': 0.5}}, "unknown setting of `tolerance` 'force'. Did you mean 'forces'?"),
        ({'tolerance': {}}, "setting of `tolerance` 'forces' is missing"),
        ({'tolerance': {'forces': -1}}, '`tolerance.forces` is -1'),
        ({'tolerance': 0.1}, '`tolerance` is 0.1, expected an object'),
        ({'committee': ['a.json']}, 'at least 2 members, found 1'),
        ({'committee': ['a.json', 'a.json']}, 'names one file twice'),
        ({'committee': 'a.json'}, "`committee` is 'a.json', expected a list of paths"),
        ({'pool': []}, 'nothing to evaluate'),
        ({'signal': 'comittee'}, "Did you mean 'committee'?"),
        ({'selector': 'topk'}, "Did you mean 'top_k'?"),
        ({'calibration': 'liner'}, "Did you mean 'linear'?"),
        ({'dtype': 'float16'}, 'unknown value of `dtype`'),
        ({'max_select': 0}, '`max_select` is 0'),
        ({'seed': 1.5}, '`seed` is 1.5'),
        ({'max_seconds': 0}, '`max_seconds` is 0'),
        ({'max_seconds': '1h'}, "`max_seconds` is '1h'"),
        ({'keep_predictions': 'no'}, "`keep_predictions` is 'no', expected true or false"),
        ({'earlier': 'there'}, "`earlier` is 'there', expected a list of paths"),
        ({'max_seconds': 60, 'keep_predictions': False}, '`max_seconds` is given, but `keep_predictions` is false'),
        ({'earlier': ['x'], 'keep_predictions': False}, '`earlier` is given, but `keep_predictions` is false'),
    ],
)
def test_bad_settings(change: dict, message: str) -> None:
    with pytest.raises(ValueError) as error:
        parse_config({**GOOD, **change})
    assert message in str(error.value)


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match='there is no file'):
        read_config(tmp_path / 'none.json')
    path = tmp_path / 'config.json'
    path.write_text('{')
    with pytest.raises(ValueError, match='not valid JSON'):
        read_config(path)
    path.write_text('[]')
    with pytest.raises(ValueError, match='JSON list'):
        read_config(path)
