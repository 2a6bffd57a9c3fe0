"""Which frames a member sees."""

from __future__ import annotations

import numpy as np
import pytest

from aiida_alpot.worker.training.resampling import draw
from aiida_alpot.worker.training.settings import Resampling

ALL = np.ones((200, 1), dtype=bool)


def test_none() -> None:
    assert draw(Resampling(), ALL, ['Si'], 1) is None


def test_bootstrap() -> None:
    """As many as there are, with replacement: 63 % of the frames are there."""
    shares = []
    for seed in range(20):
        rows = draw(Resampling('bootstrap'), ALL, ['Si'], seed)
        assert len(rows) == 200 and (np.diff(rows) >= 0).all() and rows.min() >= 0 and rows.max() < 200
        shares.append(len(np.unique(rows)) / 200)
    assert np.mean(shares) == pytest.approx(1 - np.exp(-1), abs=0.02)


def test_subsample() -> None:
    rows = draw(Resampling('subsample', 0.8), ALL, ['Si'], 4)
    assert len(rows) == len(set(rows.tolist())) == 160
    assert len(draw(Resampling('subsample', 1e-6), ALL, ['Si'], 4)) == 1


def test_the_seed_decides() -> None:
    one, other, again = (draw(Resampling('bootstrap'), ALL, ['Si'], seed) for seed in (1, 2, 1))
    assert np.array_equal(one, again) and not np.array_equal(one, other)


@pytest.mark.parametrize('kind', ['bootstrap', 'subsample'])
def test_each_element_and_property_stays(kind: str) -> None:
    """One frame of 200 has germanium; each draw has it."""
    has = np.ones((200, 3), dtype=bool)
    has[:, 1] = np.arange(200) == 17
    has[:, 2] = np.arange(200) > 190
    for seed in range(20):
        rows = draw(Resampling(kind, 0.3), has, ['Si', 'Ge', 'stress'], seed)
        assert 17 in rows and (rows > 190).any()
        assert np.array_equal(rows, draw(Resampling(kind, 0.3), has, ['Si', 'Ge', 'stress'], seed))


def test_what_cannot_be() -> None:
    has = np.eye(3, dtype=bool)
    with pytest.raises(ValueError, match=r'none of 1000 draws of 1 of the 3 training frames .* \(Si is the rarest\)'):
        draw(Resampling('subsample', 0.4), has, ['Si', 'Ge', 'C'], 0)
