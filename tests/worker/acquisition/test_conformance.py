"""Our own signals and selectors, by the kit that those of other packages are checked with; and the kit itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint

import numpy as np
import pytest

from aiida_alpot.worker import registry
from aiida_alpot.worker.acquisition.config import parse_config
from aiida_alpot.worker.acquisition.conformance import check_selector, check_signal
from aiida_alpot.worker.acquisition.selectors import RULES, SELECTORS, Pick, make_selector
from aiida_alpot.worker.acquisition.signals import Deviations, Signal, make_signal
from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.potentials import load_committee


def carbides(n: int, n_atoms: int = 8) -> list[Frame]:
    rng = np.random.default_rng(1)
    grid = np.stack(np.meshgrid(*[np.arange(2)] * 3, indexing='ij'), axis=-1).reshape(-1, 3)[:n_atoms] * 2.2
    return [
        Frame(
            rng.choice([6, 14], size=n_atoms),
            grid + rng.normal(scale=0.15, size=(n_atoms, 3)),
            4.4 * np.eye(3) + rng.normal(scale=0.1, size=(3, 3)),
            (True, True, True),
            energy=-8.0 * n_atoms + rng.normal(),
            forces=rng.normal(size=(n_atoms, 3)),
            split='train',
            origin=['md', 'rattle'][i % 2],
        )
        for i in range(n)
    ]


@pytest.mark.parametrize(
    ('name', 'options'),
    [
        ('committee', {}),
        ('committee_maximum', {}),
        ('extrapolation_grade', {}),
        ('extrapolation_grade', {'rectangular': True}),
        ('extrapolation_grade', {'clusters': 'origin'}),
        ('extrapolation_grade', {'clusters': 'k_means', 'n_clusters': 2}),
        ('extrapolation_grade', {'clusters': 'birch', 'n_clusters': 2}),
        ('extrapolation_grade', {'representation': 'soap_per_atom', 'representation_options': {'n_max': 3}}),
        ('residual_process', {}),
        ('residual_process', {'representation': 'activations', 'noise': None}),
    ],
)
def test_our_signals(mace_files: Callable, name: str, options: dict) -> None:
    needed = {'birch': 'sklearn', 'soap_per_atom': 'featomic'}
    for option in options.values():
        pytest.importorskip(needed.get(str(option), 'numpy'))
    frames = carbides(12)
    check_signal(lambda: make_signal(name, options), load_committee(mace_files(['C', 'Si'])), frames[8:], frames[:8])


@pytest.mark.parametrize('name', [*SELECTORS, *RULES])
def test_our_selectors(name: str) -> None:
    check_selector(make_selector(name, {}))


@pytest.mark.parametrize('name', ['lcmd', 'posterior_variance', 'k_center'])
def test_weighted_selectors(name: str) -> None:
    check_selector(make_selector(name, {'weighted': True}))


@dataclass
class Lazy(Signal):
    """Knows everything, but differs from one call to the next."""

    calls: int = 0

    def __call__(self, predictions) -> Deviations:
        self.calls += 1
        n, n_atoms = len(predictions.offsets) - 1, int(predictions.offsets[-1])
        frame, atom = np.full(n, float(self.calls)), np.full(n_atoms, float(self.calls))
        return Deviations(frame, atom, frame, frame, frame)


def greedy_first(scores, tolerance, max_select, seed) -> list[Pick]:
    """Whatever comes first, and once too often."""
    return [Pick(int(index), 'first') for index in scores.index[: max_select + 1]]


def test_the_kit_finds_what_is_wrong(mace_files: Callable) -> None:
    frames = carbides(4)
    with pytest.raises(AssertionError, match='asked twice'):
        check_signal(Lazy, load_committee(mace_files(['C', 'Si'])), frames, frames)
    with pytest.raises(AssertionError, match='frames were selected, 1 asked for'):
        check_selector(greedy_first)


def test_entry_points_of_other_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {
        'alpot.signals': [EntryPoint('lazy', 'tests_of_conformance:Lazy', 'alpot.signals')],
        'alpot.selectors': [EntryPoint('first', 'tests_of_conformance:greedy_first', 'alpot.selectors')],
    }
    found = {'Lazy': Lazy, 'greedy_first': greedy_first}
    monkeypatch.setattr(registry, 'entry_points', lambda group: entries[group])
    monkeypatch.setattr(EntryPoint, 'load', lambda self: found[self.value.rpartition(':')[2]])
    registry.from_packages.cache_clear()
    try:
        signal = make_signal('lazy', {'calls': 3})
        assert isinstance(signal, Lazy) and signal.calls == 3
        assert make_selector('first', {}) is greedy_first
        config = {'committee': ['a', 'b'], 'tolerance': {'forces': 0.1}, 'pool': ['p.h5']}
        assert isinstance(parse_config({**config, 'signal': 'lazy', 'selector': 'first'}).make_signal(), Lazy)
        with pytest.raises(ValueError, match="Did you mean 'lazy'"):
            make_signal('lasy', {})
    finally:
        registry.from_packages.cache_clear()


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'signal': {'name': 'extrapolation_grade', 'representation': 'ntk'}}, 'expected features of atoms'),
        ({'signal': {'name': 'extrapolation_grade', 'cluster': 'k_means'}}, "Did you mean 'clusters'"),
        ({'signal': {'clusters': 'k_means'}}, '`signal` is .*expected a name, or an object with `name`'),
        ({'calibration': {'name': 'conformal', 'alhpa': 0.1}}, "Did you mean 'alpha'"),
        ({'calibration': {'name': 'conformal', 'alpha': 1.5}}, 'alpha'),
        ({'calibration': {'name': 'linear', 'by': 'orign'}}, 'calibration.by'),
        ({'selector': {'name': 'lcmd', 'weigthed': True}}, "Did you mean 'weighted'"),
        ({'selector': {'name': 'top_k', 'weighted': True}}, 'has no options'),
        ({'selector': {'name': 'hybrid', 'weighted': False}}, 'weighted by the expected error'),
        ({'representation': 'nkt'}, 'nkt'),
        ({'candidates': 'some'}, '`candidates`'),
        ({'quotas': {'md': -1}}, 'quotas.md'),
        ({'quotas': 3}, 'a number for each origin'),
    ],
)
def test_settings_that_cannot_be(change: dict, message: str) -> None:
    config = {'committee': ['a', 'b'], 'tolerance': {'forces': 0.1}, 'pool': ['p.h5']}
    with pytest.raises(ValueError, match=message):
        parse_config({**config, **change})
