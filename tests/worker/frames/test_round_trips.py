"""Whatever a frame holds comes back to the last bit; what identifies it, and what does not."""

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from ase import Atoms
from hypothesis import assume, example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from aiida_alpot.worker.frames import PROPERTIES, Frame, FrameStore, batches, write_shard
from aiida_alpot.worker.frames.frame import ID_DECIMALS

STRUCTURE = ('numbers', 'positions', 'cell', 'pbc')
TEXTS = ('lineage', 'origin', 'split', 'level_of_theory')
PER_ATOM = ('numbers', 'positions', 'forces', 'charges', 'magmoms')

#: Kind and shape of a row of each user's array; a name has one of each in a shard.
USER_ARRAYS = {
    'hardness': (np.float64, ()),
    'born-charges': (np.float64, (3, 3)),
    'velocity': (np.float32, (3,)),
    'layer': (np.int64, ()),
    'shift': (np.int16, (3,)),
    'site.kind': (np.uint8, ()),
    'free': (np.bool_, ()),
    '_mobile': (np.bool_, (3,)),
}

#: Numbers of any size that can still be added to one another.
finite = st.floats(-1e300, 1e300)
lengths = st.floats(-1e4, 1e4)
tilts = st.floats(-2, 2)
texts = st.text(st.characters(exclude_categories=['Cs'], exclude_characters='\x00'), max_size=12)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | st.text(st.characters(exclude_categories=['Cs']), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
levels = st.sampled_from(
    ['', 'pbe', 'VASP PBE 520 eV', 'pw-0123456789abcdef[Fe:0123456789ab,+isolated]', 'Ζürich, r²SCAN']
)
periodicities = st.tuples(*[st.booleans()] * 3)


@st.composite
def cells(draw, pbc, values=tilts):
    """Lattice vectors that are independent along the periodic axes, and often absent along the others."""
    cell = np.zeros((3, 3))
    for axis in range(3):
        if pbc[axis] or draw(st.booleans()):
            cell[axis] = draw(hnp.arrays(np.float64, 3, elements=values))
            cell[axis, axis] += 9
    return cell


@st.composite
def frames_of(draw, max_atoms=40):
    """One frame with any of what a frame can hold."""
    n = draw(st.integers(1, max_atoms))
    pbc = draw(periodicities)
    shapes = {'energy': (), 'forces': (n, 3), 'stress': (3, 3), 'charges': (n,), 'magmoms': (n,), 'dipole': (3,)}
    labelled = draw(st.sets(st.sampled_from(PROPERTIES)))
    labels = {name: draw(hnp.arrays(np.float64, shapes[name], elements=finite)) for name in sorted(labelled)}
    arrays = {}
    for name in draw(st.sets(st.sampled_from(sorted(USER_ARRAYS)))):
        dtype, row_shape = USER_ARRAYS[name]
        special = {'allow_nan': False, 'allow_infinity': False} if np.dtype(dtype).kind == 'f' else {}
        elements = hnp.from_dtype(np.dtype(dtype), **special)
        arrays[name] = draw(hnp.arrays(dtype, (n, *row_shape), elements=elements))
    return Frame(
        numbers=draw(hnp.arrays(np.int64, n, elements=st.integers(1, 118))),
        positions=draw(hnp.arrays(np.float64, (n, 3), elements=lengths)),
        cell=draw(cells(pbc)),
        pbc=pbc,
        **labels,
        lineage=draw(texts),
        origin=draw(texts),
        split=draw(st.sampled_from(['', 'train', 'validation', 'test'])),
        level_of_theory=draw(levels),
        metadata=draw(st.dictionaries(texts, json_values, max_size=3)),
        arrays=arrays,
    )


sets_of_frames = st.lists(frames_of(), min_size=1, max_size=5)


def assert_same_bits(left, right):
    """Everything agrees, the sign of a zero included."""
    for name in (*STRUCTURE, *PROPERTIES):
        a, b = getattr(left, name), getattr(right, name)
        assert (a is None) == (b is None), name
        if a is not None:
            assert np.asarray(a).dtype == np.asarray(b).dtype, name
            assert np.shape(a) == np.shape(b), name
            assert np.asarray(a).tobytes() == np.asarray(b).tobytes(), name
    for name in (*TEXTS, 'frame_id'):
        assert getattr(left, name) == getattr(right, name), name
    assert dict(left.metadata) == dict(right.metadata)
    assert sorted(left.arrays) == sorted(right.arrays)
    for name, a in left.arrays.items():
        b = right.arrays[name]
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes()), name


@pytest.fixture
def directory(tmp_path_factory):
    """Makes a new folder for each example."""
    return lambda: tmp_path_factory.mktemp('shards')


class TestShards:
    @given(frames=sets_of_frames)
    def test_everything_comes_back_to_the_last_bit(self, directory, frames):
        with FrameStore([write_shard(frames, directory())]) as store:
            assert len(store) == len(frames)
            for i, (frame, streamed) in enumerate(zip(frames, store, strict=True)):
                assert_same_bits(streamed, frame)
                assert_same_bits(store[i], frame)

    @given(frames=sets_of_frames)
    def test_same_frames_give_the_same_bytes_also_when_read_and_written_again(self, directory, frames):
        first, second = write_shard(frames, directory()), write_shard(iter(frames), directory())
        assert first.name == second.name
        assert first.read_bytes() == second.read_bytes()
        with FrameStore([first]) as store:
            assert write_shard(store, directory()).read_bytes() == first.read_bytes()

    def test_another_process_with_another_hash_seed_writes_the_same_bytes(self, tmp_path, make_full_set):
        path = write_shard(make_full_set(12), tmp_path)
        script = (
            'import sys; from aiida_alpot.worker.frames import FrameStore, write_shard\n'
            'with FrameStore([sys.argv[1]]) as store: print(write_shard(list(store), sys.argv[2]).name)'
        )
        for seed in ('1', '2'):
            command = [sys.executable, '-c', script, str(path), str(tmp_path / seed)]
            environment = {'PYTHONHASHSEED': seed, 'PATH': '/usr/bin:/bin'}
            run = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
            assert run.stdout.strip() == path.name

    def test_a_hundred_thousand_atoms(self, tmp_path):
        n = 100_000
        rng = np.random.default_rng(0)
        cell = 120 * np.eye(3) + rng.normal(size=(3, 3))
        frame = Frame(
            rng.integers(1, 119, size=n),
            rng.uniform(0, 120, size=(n, 3)),
            cell,
            [True, True, False],
            energy=-1.0,
            forces=rng.normal(size=(n, 3)),
            charges=rng.normal(size=n),
            arrays={'tensor': rng.normal(size=(n, 3, 3)), 'free': rng.random(n) < 0.5},
        )
        small = Frame([14], [[0.1, 0.2, 0.3]], np.zeros((3, 3)), [False] * 3, energy=1.0)
        with FrameStore([write_shard([small, frame, small], tmp_path)]) as store:
            assert store.column('n_atoms').tolist() == [1, n, 1]
            assert_same_bits(store[1], frame)
            assert_same_bits(store[2], small)
            assert [len(atoms) for atoms in store.iter_atoms()] == [1, n, 1]
            assert [batch.index.tolist() for batch in batches(store, max_atoms=1000)] == [[0], [1], [2]]
            order = np.random.default_rng(1).permutation(n)
            shuffled = frame.replace(
                **{name: getattr(frame, name)[order] for name in PER_ATOM if getattr(frame, name) is not None},
                arrays={},
            )
            assert shuffled.frame_id == frame.frame_id


@pytest.fixture
def make_full_set(make_frame):
    """Factory of sets whose frames have this and that, all drawn from a seed."""

    def factory(size):
        frames = []
        for i in range(size):
            rng = np.random.default_rng(i)
            n = int(rng.integers(1, 9))
            frame = make_frame(i, n, labelled=i % 3 > 0, metadata={'step': i, 'ü': [0.1, None]} if i % 2 else {})
            changes = {}
            if i % 3 == 1:
                changes |= {'charges': rng.normal(size=n), 'dipole': rng.normal(size=3), 'stress': None}
            if i % 4 == 2:
                changes |= {'magmoms': rng.normal(size=n), 'forces': None}
            if i % 2:
                arrays = {'z': rng.normal(size=(n, 3, 3)), 'layer': rng.integers(-5, 5, size=n)}
                changes['arrays'] = arrays if i % 5 else {'free': rng.random((n, 3)) < 0.5}
            frames.append(frame.replace(**changes))
        return frames

    return factory


class TestReading:
    """By column and by batch the same as frame by frame, over the borders of shards."""

    @pytest.fixture
    def frames(self, make_full_set):
        return make_full_set(40)

    @pytest.fixture
    def store(self, tmp_path, frames):
        bounds = [0, 7, 8, 29, 40]
        paths = [write_shard(frames[i:j], tmp_path) for i, j in pairwise(bounds)]
        with FrameStore(paths) as store:
            yield store

    @given(indices=st.lists(st.integers(-40, 39), max_size=12))
    def test_select_gives_the_frames_asked_for_in_that_order(self, store, frames, indices):
        for back, index in zip(store.select(indices), indices, strict=True):
            assert_same_bits(back, frames[index])

    @given(start=st.integers(-45, 45), stop=st.none() | st.integers(-45, 45))
    def test_columns_of_slices_are_the_values_of_the_frames(self, store, frames, start, stop):
        mine = frames[start:stop]
        for name in (*TEXTS, 'frame_id'):
            assert store.column(name, start, stop).tolist() == [getattr(frame, name) for frame in mine]
        assert store.column('n_atoms', start, stop).tolist() == [len(frame) for frame in mine]
        for name in (*STRUCTURE, *PROPERTIES):
            found = store.column(name, start, stop)
            expected = [rows_of(frame, name) for frame in mine]
            expected = np.concatenate(expected) if expected else np.empty((0, *found.shape[1:]))
            assert found.shape == expected.shape, name
            assert np.array_equal(found, expected, equal_nan=name in PROPERTIES), name
        for name in PROPERTIES:
            assert store.column(f'has_{name}', start, stop).tolist() == [name in frame.labels for frame in mine]

    @given(start=st.integers(0, 40), stop=st.integers(0, 40))
    def test_columns_of_users_arrays(self, store, frames, start, stop):
        assert store.array_names() == ['free', 'layer', 'z']
        kinds = {'free': (np.bool_, (3,)), 'layer': (np.int64, ()), 'z': (np.float64, (3, 3))}
        for name, (dtype, row_shape) in kinds.items():
            found = store.column(name, start, stop)
            absent = np.nan if dtype is np.float64 else 0
            rows = [frame.arrays.get(name, np.full((len(frame), *row_shape), absent)) for frame in frames[start:stop]]
            assert found.dtype == dtype
            expected = np.concatenate([np.empty((0, *row_shape)), *rows])
            assert np.array_equal(found, expected, equal_nan=dtype is np.float64), name
            assert store.has(name, start, stop).tolist() == [name in frame.arrays for frame in frames[start:stop]]

    @given(max_atoms=st.integers(1, 80), max_frames=st.none() | st.integers(1, 9), seed=st.none() | st.integers(0, 99))
    def test_batches_hold_every_frame_once(self, store, frames, max_atoms, max_frames, seed):
        seen = []
        for batch in batches(store, max_atoms=max_atoms, max_frames=max_frames, seed=seed):
            assert len(batch) == 1 or len(batch.numbers) <= max_atoms
            assert max_frames is None or len(batch) <= max_frames
            assert_batch(batch, frames)
            seen += batch.index.tolist()
        assert sorted(seen) == list(range(40))
        assert seed is not None or seen == sorted(seen)

    @given(
        indices=st.lists(st.integers(-40, 39), max_size=20),
        properties=st.none() | st.sets(st.sampled_from(PROPERTIES)).map(sorted),
    )
    def test_batches_of_chosen_frames_and_properties(self, store, frames, indices, properties):
        seen = []
        for batch in batches(store, max_atoms=10, indices=indices, properties=properties):
            assert sorted(batch.labels) == sorted(PROPERTIES if properties is None else properties)
            assert_batch(batch, frames)
            seen += batch.index.tolist()
        assert seen == [index % 40 for index in indices]

    def test_one_seed_one_order(self, store):
        orders = [
            np.concatenate([batch.index for batch in batches(store, max_atoms=20, seed=seed)]).tolist()
            for seed in (1, 1, 2)
        ]
        assert orders[0] == orders[1] != orders[2]


def rows_of(frame, name):
    """What a column holds of a frame, one row a frame or an atom."""
    shapes = {'energy': (1,), 'stress': (1, 3, 3), 'dipole': (1, 3), 'forces': (len(frame), 3)}
    value = getattr(frame, name)
    if value is None:
        return np.full(shapes.get(name, (len(frame),)), np.nan)
    return value if name in PER_ATOM else np.asarray(value)[None]


def assert_batch(batch, frames):
    """A batch holds what its frames hold."""
    mine = [frames[index] for index in batch.index]
    assert batch.offsets.tolist() == np.cumsum([0, *map(len, mine)]).tolist()
    for name in STRUCTURE:
        assert np.array_equal(getattr(batch, name), np.concatenate([rows_of(frame, name) for frame in mine])), name
    for name, values in batch.labels.items():
        assert np.array_equal(values, np.concatenate([rows_of(frame, name) for frame in mine]), equal_nan=True), name
        assert batch.has[name].tolist() == [name in frame.labels for frame in mine]


class TestIdentity:
    """``frame_id`` of structures whose lengths have six decimals, as files have them."""

    @staticmethod
    @st.composite
    def structures(draw):
        """A structure on the grid of 1e-6 A."""
        micro = st.integers(-2 * 10**7, 2 * 10**7)
        pbc = draw(periodicities)
        n = draw(st.integers(1, 8))
        cell = draw(cells(pbc, st.integers(-2 * 10**6, 2 * 10**6).map(lambda length: length / 10**ID_DECIMALS)))
        positions = draw(hnp.arrays(np.int64, (n, 3), elements=micro)) / 10**ID_DECIMALS
        return Frame(draw(hnp.arrays(np.int64, n, elements=st.integers(1, 118))), positions, cell.round(6), pbc)

    @given(frame=structures(), data=st.data())
    def test_order_of_the_atoms_does_not_matter(self, frame, data):
        order = data.draw(st.permutations(range(len(frame))))
        other = frame.replace(numbers=frame.numbers[order], positions=frame.positions[order])
        assert other.frame_id == frame.frame_id
        numbers, positions = frame.numbers, other.numbers
        assert np.array_equal(numbers[frame.canonical_order], positions[other.canonical_order])

    @given(frame=structures(), data=st.data())
    def test_lattice_vectors_along_periodic_axes_do_not_matter(self, frame, data):
        shifts = data.draw(hnp.arrays(np.int64, (len(frame), 3), elements=st.integers(-3, 3))) * frame.pbc
        other = frame.replace(positions=frame.positions + shifts @ frame.cell)
        assert other.frame_id == frame.frame_id
        written = other.replace(positions=other.positions.round(ID_DECIMALS))
        assert written.frame_id == frame.frame_id

    @given(frame=structures())
    def test_writing_six_decimals_does_not_matter(self, frame):
        cell, positions = (
            np.array([[float(f'{x:.6f}') for x in row] for row in rows]) for rows in (frame.cell, frame.positions)
        )
        assert frame.replace(cell=cell, positions=positions).frame_id == frame.frame_id

    @given(frame=structures(), seed=st.integers(0, 2**32))
    @example(frame=Frame([14], [[9.9999, 0, 0]], 10 * np.eye(3), [True] * 3), seed=0)
    @example(frame=Frame([14], [[-0.0001, 0, 0]], 10 * np.eye(3), [True] * 3), seed=0)
    def test_noise_does_not_matter(self, frame, seed):
        rng = np.random.default_rng(seed)
        for _ in range(5):
            cell = frame.cell + rng.uniform(-1e-13, 1e-13, size=(3, 3)) * (frame.cell != 0)
            positions = frame.positions + rng.uniform(-1e-13, 1e-13, size=frame.positions.shape)
            assert frame.replace(cell=cell, positions=positions).frame_id == frame.frame_id

    @given(frame=structures(), data=st.data())
    def test_a_moved_atom_is_another_structure(self, frame, data):
        atom, axis = data.draw(st.integers(0, len(frame) - 1)), data.draw(st.integers(0, 2))
        positions = frame.positions.copy()
        positions[atom, axis] += 2e-6
        assert frame.replace(positions=positions).frame_id != frame.frame_id

    @given(frame=structures(), data=st.data())
    def test_species_and_cell_and_periodicity_enter(self, frame, data):
        numbers = frame.numbers.copy()
        atom = data.draw(st.integers(0, len(frame) - 1))
        numbers[atom] = numbers[atom] % 118 + 1
        assert frame.replace(numbers=numbers).frame_id != frame.frame_id
        if frame.pbc.any():
            fewer = frame.pbc.copy()
            fewer[data.draw(st.sampled_from(np.flatnonzero(fewer).tolist()))] = False
            assert frame.replace(pbc=fewer).frame_id != frame.frame_id
        assume(frame.cell.any())
        cell = frame.cell.copy()
        row = data.draw(st.sampled_from(np.flatnonzero(cell.any(axis=1)).tolist()))
        cell[row, row] += 2e-6
        assert frame.replace(cell=cell).frame_id != frame.frame_id


@given(frame=frames_of(max_atoms=6))
def test_ase_structures_carry_everything_there_and_back(frame):
    # ASE keeps six components of the stress.
    symmetric = frame.replace(stress=None if frame.stress is None else frame.stress / 2 + frame.stress.T / 2)
    atoms = symmetric.to_atoms()
    assert isinstance(atoms, Atoms)
    back = Frame.from_atoms(
        atoms,
        labels=True,
        arrays={name: atoms.arrays[name] for name in frame.arrays},
        **{name: getattr(frame, name) for name in (*TEXTS, 'metadata')},
    )
    assert_same_bits(back, symmetric)
