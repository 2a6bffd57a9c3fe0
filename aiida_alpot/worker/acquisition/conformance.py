"""What every signal and selector has to hold, as checks that one of another package runs in its tests.

Each check raises ``AssertionError`` with a sentence that says what does not hold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from aiida_alpot.worker.acquisition.selectors import Scores, Selector, Tolerance, choose
from aiida_alpot.worker.acquisition.signals import Signal

if TYPE_CHECKING:
    from aiida_alpot.worker.frames.frame import Frame
    from aiida_alpot.worker.potentials.committee import Committee

RELATIVE = 1e-6
"""Signals of rotated and permuted frames may differ by this much, relative to the largest value."""


def check_selector(selector: Selector, n: int = 40, n_features: int = 6, seed: int = 0) -> None:
    """Check a selector on a made-up pool.

    It selects at most what was asked for, each frame once, only what is eligible, with a reason; the same for the same
    input, whatever the order of the pool; and nothing from nothing.
    """
    scores, tolerance = _made_up(n, n_features, seed), Tolerance(0.5)
    worthy = set(scores.index[scores.expected_force_error > 0.5].tolist())
    for k in (1, 5, n):
        picks = choose(scores, tolerance, selector, k, seed)
        index = [pick.index for pick in picks]
        assert 1 <= len(picks) <= min(k, len(worthy)), f'{len(picks)} frames were selected, {k} asked for'
        assert len(set(index)) == len(index), 'a frame was selected twice'
        assert set(index) <= worthy, 'a frame was selected that is not eligible'
        assert all(pick.reason for pick in picks), 'a frame was selected without a reason'
        assert choose(scores, tolerance, selector, k, seed) == picks, 'the same input gave another selection'
        order = np.random.default_rng(seed + 1).permutation(n)
        again = choose(scores.take(order), tolerance, selector, k, seed)
        assert {pick.index for pick in again} == set(index), 'the selection depends on the order of the pool'
    nothing = choose(scores, Tolerance(1e9), selector, 5, seed)
    assert nothing == [], 'something was selected although no frame is eligible'


def check_signal(
    make: Callable[[], Signal], committee: Committee, frames: Sequence[Frame], labelled: Sequence[Frame]
) -> None:
    """Check a signal with a committee.

    It has a number for each frame and atom, at least 0; the same when asked again, for frames in other batches,
    rotated, or with their atoms in another order.

    :param make: makes the signal, not fitted.
    :param frames: at least two, without labels or with; the potentials must be equivariant.
    :param labelled: what the signal is fitted to.
    """
    signal = make()
    assert committee.n_members >= signal.min_members, 'give the check a committee with enough members'
    signal.fit(committee, labelled)
    found = _evaluated(signal, committee, frames)
    n_atoms = [len(frame) for frame in frames]
    assert found['energy'].shape == found['max_force'].shape == (len(frames),), 'one number a frame is expected'
    assert found['force'].shape == (sum(n_atoms),), 'one number an atom is expected'
    known = np.concatenate([found[name][np.isfinite(found[name])] for name in ('energy', 'force', 'max_force')])
    assert len(known), 'the signal is nowhere finite'
    assert known.min() >= 0, 'a signal is negative'
    _assert_equal(found, _evaluated(signal, committee, frames), 'asked twice')
    again = make()
    again.fit(committee, labelled)
    _assert_equal(found, _evaluated(again, committee, frames), 'fitted twice')
    singly = [_evaluated(signal, committee, [frame]) for frame in frames]
    _assert_equal(found, {name: np.concatenate([one[name] for one in singly]) for name in found}, 'one by one')
    _assert_equal(found, _evaluated(signal, committee, [_rotated(frame) for frame in frames]), 'rotated')
    turned = _evaluated(signal, committee, [_reversed(frame) for frame in frames])
    bounds = np.cumsum([0, *n_atoms])
    turned['force'] = np.concatenate([turned['force'][i:j][::-1] for i, j in pairwise(bounds.tolist())])
    _assert_equal(found, turned, 'with atoms in another order')


def _made_up(n: int, n_features: int, seed: int) -> Scores:
    rng = np.random.default_rng(seed)
    error = rng.uniform(0, 1, size=n)
    return Scores(
        index=np.arange(n),
        frame_id=np.array([f'{value:012d}' for value in rng.permutation(n)]),
        expected_force_error=error,
        expected_energy_error=error / 10,
        origin=np.array(['md', 'rattle'])[rng.integers(0, 2, size=n)],
        features=rng.normal(size=(n, n_features)),
        known=rng.normal(size=(3, n_features)),
    )


def _evaluated(signal: Signal, committee: Committee, frames: Sequence[Frame]) -> dict[str, np.ndarray]:
    found = signal(committee.evaluate(frames, features=signal.features))
    return {'energy': found.energy, 'force': found.force, 'max_force': found.max_force}


def _assert_equal(found: dict[str, np.ndarray], other: dict[str, np.ndarray], how: str) -> None:
    for name, values in found.items():
        scale = float(np.max(np.abs(values[np.isfinite(values)]), initial=0.0))
        close = np.allclose(values, other[name], rtol=0.0, atol=RELATIVE * scale + 1e-9, equal_nan=True)
        assert close, f'`{name}` of the signal differs for frames {how}'


def _rotated(frame: Frame) -> Frame:
    from scipy.spatial.transform import Rotation

    rotation = Rotation.from_rotvec([0.3, -0.7, 1.1]).as_matrix()
    return frame.unlabelled().replace(positions=frame.positions @ rotation.T, cell=frame.cell @ rotation.T)


def _reversed(frame: Frame) -> Frame:
    return replace(frame.unlabelled(), numbers=frame.numbers[::-1], positions=frame.positions[::-1], arrays={})
