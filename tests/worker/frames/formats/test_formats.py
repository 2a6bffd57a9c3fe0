import gc
import lzma
import resource
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiida_alpot.worker.frames import FrameStore, hash_file
from aiida_alpot.worker.frames.formats import FORMATS, STYLES, LabelDeclaration, find_format, read_frames, write_frames

FILES = [
    *(('set.extxyz', style) for style in STYLES),
    ('set.xyz.gz', 'mace'),
    ('set.xyz.bz2', 'mace'),
    ('set.xyz.xz', 'mace'),
    ('set.db', None),
    ('set.traj', None),
    ('set.h5', None),
]


def storable(frames, name):
    """A shard has one kind and shape for the user arrays of one name."""
    first = {}
    for frame in frames if name.endswith('.h5') else ():
        for key, array in frame.arrays.items():
            first.setdefault(key, (array.dtype, array.shape[1:]))
    return [
        frame.replace(
            arrays={
                k: a for k, a in frame.arrays.items() if first.get(k, (a.dtype, a.shape[1:])) == (a.dtype, a.shape[1:])
            }
        )
        for frame in frames
    ]


def trainable(frame, style):
    """What metatrain can be given: labels only together with an energy, a stress only where there is a cell."""
    if style != 'metatrain':
        return frame
    changes = {}
    if frame.volume == 0:
        changes['stress'] = None
    if frame.labels:
        changes['energy'] = 1.5 if frame.energy is None else frame.energy
    return frame.replace(**changes)


@pytest.mark.parametrize(('name', 'style'), FILES)
@given(data=st.data())
def test_round_trips_to_the_last_bit(tmp_path, any_frame, assert_same_frame, name, style, data):
    frames = [trainable(frame, style) for frame in data.draw(st.lists(any_frame, min_size=1, max_size=3))]
    if style == 'metatrain' and any(frame.labels for frame in frames):
        frames = [frame if frame.energy is not None else frame.replace(energy=-2.5) for frame in frames]
    frames = storable(frames, name)
    path = tmp_path / name
    assert write_frames(iter(frames), path, style=style) == len(frames)
    for back, frame in zip(read_frames(path), frames, strict=True):
        assert_same_frame(back, frame)
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize('name', ['set.extxyz', 'set.xyz.gz', 'set.xyz.bz2', 'set.xyz.xz', 'set.h5'])
def test_same_frames_give_the_same_bytes(tmp_path, full_frame, name):
    frames = [full_frame(seed) for seed in range(3)]
    hashes = set()
    for folder in (tmp_path / 'a', tmp_path / 'b'):
        folder.mkdir()
        write_frames(frames, folder / name)
        hashes.add(hash_file(folder / name))
    assert len(hashes) == 1


@pytest.mark.parametrize(('name', 'style'), FILES)
def test_reading_and_writing_stream(tmp_path, full_frame, name, style):
    seen = 0

    def frames():
        nonlocal seen
        for seed in range(40):
            seen += 1
            yield full_frame(seed)

    write_frames(frames(), tmp_path / name, style=style)
    assert seen == 40
    reader = read_frames(tmp_path / name)
    assert next(reader).lineage == 'lineage-0' and next(reader).lineage == 'lineage-1'
    reader.close()
    write_frames(read_frames(tmp_path / name), tmp_path / name, style=style)
    assert [frame.lineage for frame in read_frames(tmp_path / name)] == [f'lineage-{seed}' for seed in range(40)]


@pytest.mark.parametrize(('name', 'style'), FILES)
def test_a_failure_while_writing_leaves_what_was_there(tmp_path, full_frame, name, style):
    path = tmp_path / name
    write_frames([full_frame(0)], path, style=style)
    before = path.read_bytes()

    def broken():
        yield full_frame(1)
        raise RuntimeError('the source failed')

    for frames, error in ((broken(), RuntimeError), ([], ValueError)):
        with pytest.raises(error, match=r'the source failed|at least one'):
            write_frames(frames, path, style=style)
        assert path.read_bytes() == before
        assert [entry.name for entry in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(('name', 'style'), [file for file in FILES if file[1] == 'mace'] + FILES[-3:-1])
def test_no_space_is_an_error_and_leaves_nothing(tmp_path, full_frame, name, style):
    frames = [full_frame(seed, n_atoms=200) for seed in range(20)]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))
    try:
        with pytest.raises(OSError):
            write_frames(frames, tmp_path / name, style=style)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(('name', 'style'), FILES)
def test_truncated_files_are_named(tmp_path, full_frame, name, style):
    frames = [full_frame(seed, n_atoms=50) for seed in range(30)]
    write_frames(frames, tmp_path / name, style=style)
    content = (tmp_path / name).read_bytes()
    for part in (0.001, 0.3, 0.7, 0.99):
        (tmp_path / name).write_bytes(content[: int(len(content) * part)])
        with pytest.raises(ValueError, match=f'{name}.*(cut off|damaged|truncated|column|no frames)'):
            list(read_frames(tmp_path / name))


@pytest.mark.parametrize(
    'name', ['set.extxyz', 'set.xyz.gz', 'set.xyz.bz2', 'set.xyz.xz', 'set.db', 'set.traj', 'set.h5']
)
@pytest.mark.parametrize('content', [b'', b'\x00\xff\xfe' * 300, b'hello'])
def test_foreign_bytes_are_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name):
        list(read_frames(tmp_path / name))
    assert (tmp_path / name).read_bytes() == content


def test_formats_are_found_by_suffix():
    found = {name: find_format(Path('some.set') / name) for name in ('a.xyz', 'a.EXTXYZ', 'a.b.xyz.gz', 'a.db', 'a.h5')}
    assert list(found.values()) == ['extxyz', 'extxyz', 'extxyz', 'ase-db', 'shard']
    assert find_format('labels.txt', 'traj') == 'traj'
    for name in ('a.txt', 'a', 'a.gz', 'a.db.gz', 'xyz'):
        with pytest.raises(ValueError, match=r'extxyz: \.extxyz, \.xyz; ase-db: \.db; traj: \.traj; shard: \.h5'):
            find_format(name)
    with pytest.raises(ValueError, match=r"unknown format 'extxzy'.*'extxyz'"):
        find_format('a.xyz', 'extxzy')


def test_every_format_describes_itself():
    assert all(format.description and format.suffixes for format in FORMATS.values())
    assert FORMATS['extxyz'].styles[0] == 'mace' and set(FORMATS['extxyz'].styles) == set(STYLES)


def test_errors_come_before_the_first_frame(tmp_path, full_frame):
    with pytest.raises(FileNotFoundError, match=r'no file .*none\.xyz'):
        read_frames(tmp_path / 'none.xyz')
    with pytest.raises(ValueError, match=r"unknown style of extended XYZ 'Mace'.*'mace'"):
        write_frames([full_frame(0)], tmp_path / 'a.xyz', style='Mace')
    with pytest.raises(ValueError, match="'traj' has no styles"):
        write_frames([full_frame(0)], tmp_path / 'a.traj', style='mace')
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_lies_needs_the_format(tmp_path, full_frame, assert_same_frame):
    frame = full_frame(0)
    write_frames([frame], tmp_path / 'labels.txt', format='extxyz')
    (back,) = read_frames(tmp_path / 'labels.txt', format='extxyz')
    assert_same_frame(back, frame)


@pytest.mark.parametrize('name', ['set.extxyz', 'set.db', 'set.traj', 'set.h5'])
def test_a_declaration_speaks_of_own_frames_too(tmp_path, full_frame, assert_same_frame, name):
    known, unknown = full_frame(0), full_frame(1, level_of_theory='')
    write_frames([known, unknown], tmp_path / name)
    back = list(read_frames(tmp_path / name, declaration=LabelDeclaration(level_of_theory='pbe')))
    assert_same_frame(back[0], known)
    assert_same_frame(back[1], unknown.replace(level_of_theory='pbe'))
    with pytest.raises(ValueError, match=r"level of theory 'pbe', and 'scan' is declared"):
        list(read_frames(tmp_path / name, declaration=LabelDeclaration(level_of_theory='scan')))
    only = list(read_frames(tmp_path / name, declaration=LabelDeclaration(properties=('energy',))))
    assert [set(frame.labels) for frame in only] == [{'energy'}] * 2 and only[0].level_of_theory == 'pbe'
    none = list(read_frames(tmp_path / name, declaration=LabelDeclaration(properties=())))
    assert_same_frame(none[0], known.unlabelled())


def test_a_shard_is_one_for_the_store_too(tmp_path, full_frame, assert_same_frame):
    frames = [full_frame(seed) for seed in range(3)]
    write_frames(frames, tmp_path / 'set.h5')
    with FrameStore([tmp_path / 'set.h5']) as store:
        for back, frame in zip(store, frames, strict=True):
            assert_same_frame(back, frame)


def test_compressed_files_are_read_once(tmp_path, full_frame, monkeypatch):
    """ASE seeks backwards after each frame, which unpacks an .xz file again from its start each time."""
    write_frames([full_frame(seed, n_atoms=50) for seed in range(50)], tmp_path / 'set.xyz.xz')
    monkeypatch.setattr(lzma.LZMAFile, 'seek', lambda *_: pytest.fail('seeks in a compressed file'))
    assert sum(len(frame) for frame in read_frames(tmp_path / 'set.xyz.xz')) == 2500


@pytest.mark.parametrize('name', ['set.xyz', 'set.db', 'set.traj'])
def test_memory_does_not_grow_with_the_file(tmp_path, full_frame, name):
    peaks = []
    for n_frames in (20, 80):
        write_frames((full_frame(seed % 7, n_atoms=300, arrays={}) for seed in range(n_frames)), tmp_path / name)
        gc.collect()
        tracemalloc.start()
        total = sum(frame.positions.sum() for frame in read_frames(tmp_path / name))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert np.isfinite(total)
    # One frame is about 20 kB: 60 more would be 1.2 MB.
    assert peaks[1] - peaks[0] < 4e5
