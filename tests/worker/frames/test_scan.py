"""The search for known labels: what answers a question and what does not, against a plain loop over frames."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest

from aiida_alpot.worker.frames import Frame, FrameStore, ShardError, write_shard
from aiida_alpot.worker.frames import scan as scan_module
from aiida_alpot.worker.frames.scan import LabelSearch

FROZEN = Path(__file__).parent / 'frozen' / 'schema_1.h5'
NEEDED = ('energy', 'forces')


def digests_of(frames: Sequence[Frame]) -> np.ndarray:
    """Identities as bytes."""
    return np.frombuffer(b''.join(bytes.fromhex(frame.frame_id) for frame in frames), dtype=np.uint8).reshape(-1, 32)


def search_for(frames: Sequence[Frame], level: str = 'pbe', needed: Sequence[str] = NEEDED) -> LabelSearch:
    """A search for labels of frames at one level, all of which need the same."""
    mask = np.ones(len(frames), dtype=bool)
    return LabelSearch(digests_of(frames), [level] * len(frames), dict.fromkeys(needed, mask))


@pytest.fixture
def shard(tmp_path: Path) -> Callable[..., Path]:
    """Factory of shards: ``shard(frames)``."""
    return lambda frames: write_shard(frames, tmp_path)


def test_same_as_a_loop_over_frames(
    make_frame: Callable[..., Frame], shard: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random frames, levels and labels in four shards, several questions about one structure, small chunks."""
    monkeypatch.setattr(scan_module, 'CHUNK', 5)
    rng = np.random.default_rng(3)

    def labels(frame: Frame) -> Frame:
        drop = [name for name in ('energy', 'forces', 'stress') if rng.random() < 0.3]
        return frame.replace(**dict.fromkeys(drop), level_of_theory=str(rng.choice(['pbe', 'lda'])))

    sets = [[labels(make_frame(int(seed))) for seed in rng.integers(0, 40, size=25)] for _ in range(4)]
    asked = [make_frame(int(seed), labelled=False) for seed in rng.integers(0, 60, size=80)]
    levels = rng.choice(['pbe', 'lda', 'none has it'], size=80).tolist()
    needed = {name: rng.random(80) < 0.5 for name in ('energy', 'forces', 'stress')}
    search = LabelSearch(digests_of(asked), levels, needed)
    paths = [shard(frames) for frames in sets]
    # Not in the order of their ranks.
    assert [search.scan(paths[rank], rank) for rank in (2, 0, 3, 1)] == [25] * 4

    for i, frame in enumerate(asked):
        answers = [
            (rank, row)
            for rank, frames in enumerate(sets)
            for row, known in enumerate(frames)
            if known.frame_id == frame.frame_id
            and known.level_of_theory == levels[i]
            and all(getattr(known, name) is not None for name in needed if needed[name][i])
        ]
        assert (int(search.ranks[i]), int(search.rows[i])) == min(answers, default=(-1, -1))
    assert 10 < search.found.sum() < 70


def test_the_level_is_the_very_same_text(make_frame: Callable[..., Frame], shard: Callable[..., Path]) -> None:
    """Another treatment, another pseudopotential, a base alone, and no level at all do not answer."""
    levels = ['pw-0[Si:aa,+isolated]', 'pw-0[Si:bb]', 'pw-0', '', 'pw-0[Si:aa]']
    path = shard([make_frame(0, level_of_theory=level) for level in levels])
    for level, row in (('pw-0[Si:aa]', 4), ('pw-0', 2), ('pw-0[Si:cc]', -1)):
        search = search_for([make_frame(0)], level)
        search.scan(path, 0)
        assert search.rows.tolist() == [row]


def test_identities_that_start_alike(make_frame: Callable[..., Frame], shard: Callable[..., Path]) -> None:
    """All 32 bytes count, not only the eight that are compared first."""
    frame = make_frame(0)
    path = shard([frame])
    other = digests_of([frame]).copy()
    other[0, 31] ^= 1
    asked = np.concatenate([other, digests_of([frame])])
    search = LabelSearch(asked, ['pbe', 'pbe'], {'energy': np.ones(2, dtype=bool)})
    search.scan(path, 0)
    assert search.rows.tolist() == [-1, 0]


def test_needs(make_frame: Callable[..., Frame], shard: Callable[..., Path]) -> None:
    """A label without stress does for those that need none; charges were never there."""
    path = shard([make_frame(0, stress=None)])
    for needed, found in (((), True), (NEEDED, True), ((*NEEDED, 'stress'), False), (('charges',), False)):
        search = search_for([make_frame(0)], needed=needed)
        search.scan(path, 0)
        assert search.found.tolist() == [found], needed


def test_forbidden_labels_and_their_copies(make_frame: Callable[..., Frame], shard: Callable[..., Path]) -> None:
    """The copy in another shard is not taken, the label that was calculated anew is."""
    wrong = make_frame(0)
    copied = shard([make_frame(1), wrong.replace(split='train')])
    search = search_for([wrong, make_frame(1)])
    assert search.forbid(shard([wrong])) == 1
    search.scan(copied, 0)
    assert search.found.tolist() == [False, True]
    search.scan(shard([wrong.replace(energy=wrong.energy + 1e-9)]), 1)
    assert search.ranks.tolist() == [1, 0] and search.rows.tolist() == [0, 0]


def test_no_questions(make_frame: Callable[..., Frame], shard: Callable[..., Path]) -> None:
    """Nothing is asked, nothing is found."""
    search = LabelSearch(np.empty((0, 32), dtype=np.uint8), [], {})
    assert search.scan(shard([make_frame(0)]), 0) == 1
    assert search.found.shape == (0,)


def test_file_objects_and_version_1() -> None:
    """A stream instead of a path; identities of the first version are those of today."""
    with FrameStore([FROZEN]) as store:
        frames = [frame for frame in store if frame.energy is not None]
        everything = list(store)
    levels = [frame.level_of_theory for frame in frames]
    search = LabelSearch(digests_of(frames), levels, {'energy': np.ones(len(frames), dtype=bool)})
    assert search.scan(io.BytesIO(FROZEN.read_bytes()), 0) == len(everything)
    found = [everything[row] for row in search.rows.tolist()]
    assert [frame.frame_id for frame in found] == [frame.frame_id for frame in frames]


def test_damaged_shards(make_frame: Callable[..., Frame], shard: Callable[..., Path], tmp_path: Path) -> None:
    """A sentence that names the file, whatever is wrong with it; the search can go on with others."""
    path = shard([make_frame(0)])
    truncated, foreign, lacking, newer = (
        tmp_path / f'{name}.h5' for name in ('truncated', 'foreign', 'lacking', 'new')
    )
    truncated.write_bytes(path.read_bytes()[:500])
    with h5py.File(foreign, 'w') as file:
        file['x'] = 1
    lacking.write_bytes(path.read_bytes())
    with h5py.File(lacking, 'a') as file:
        del file['level_of_theory_codes']
    newer.write_bytes(path.read_bytes())
    with h5py.File(newer, 'a') as file:
        file.attrs['schema_version'] = 99
    search = search_for([make_frame(0)])
    for bad in (truncated, foreign, lacking, tmp_path / 'missing.h5'):
        with pytest.raises(ShardError, match=f'{bad.name} cannot be read'):
            search.scan(bad, 0)
    with pytest.raises(ShardError, match=r'new.h5 has schema version 99: upgrade'):
        search.scan(newer, 0)
    assert not search.found.any()
    search.scan(path, 5)
    assert search.ranks.tolist() == [5]


@pytest.mark.parametrize(
    ('levels', 'needed'), [(['a', 'b'], {}), (['a'], {'hessian': np.ones(1)}), (['a'], {'energy': np.ones(2)})]
)
def test_questions_that_do_not_fit(
    make_frame: Callable[..., Frame], levels: list[str], needed: dict[str, np.ndarray]
) -> None:
    """Lengths and names."""
    with pytest.raises(ValueError, match='give one identity of 32 bytes and one level a question'):
        LabelSearch(digests_of([make_frame(0)]), levels, needed)
