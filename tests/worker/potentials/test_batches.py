"""Packing into batches, and what is done when the memory runs out."""

import numpy as np
import pytest
from ase.build import bulk
from hypothesis import given
from hypothesis import strategies as st

from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.potentials.batches import Cost, Room, halve_until_it_fits, is_out_of_memory, pack
from aiida_alpot.worker.potentials.neighbours import Neighbourhood


def structure(n_atoms, n_edges=0):
    frame = Frame([14] * n_atoms, np.zeros((n_atoms, 3)), np.zeros((3, 3)), [False] * 3)
    return Neighbourhood(frame, np.zeros((2, n_edges), dtype=int), np.zeros((n_edges, 3), dtype=int), np.eye(3))


def sizes(batches):
    return [[s.n_atoms for s in batch] for batch in batches]


def test_by_atoms_by_edges_and_by_number():
    structures = [
        structure(2, 10),
        structure(3, 0),
        structure(1, 30),
        structure(9, 0),
        structure(1, 0),
        structure(1, 0),
    ]
    assert sizes(pack(structures, Cost(1.0, 0.0), Room(5.0))) == [[2, 3], [1], [9], [1, 1]]
    assert sizes(pack(structures, Cost(0.0, 1.0), Room(30.0))) == [[2, 3], [1, 9, 1, 1]]
    assert sizes(pack(structures, Cost(1.0, 1.0), Room(1e9, 4))) == [[2, 3, 1, 9], [1, 1]]
    assert sizes(pack([], Cost(1.0, 1.0), Room(1.0))) == []


@given(st.lists(st.tuples(st.integers(1, 8), st.integers(0, 40))), st.floats(1, 50), st.integers(1, 5))
def test_nothing_is_lost_and_everything_fits(shapes, memory, n_frames):
    cost, structures = Cost(1.0, 0.25), [structure(*shape) for shape in shapes]
    batches = list(pack(structures, cost, Room(memory, n_frames)))
    assert [s for batch in batches for s in batch] == structures
    for batch in batches:
        assert len(batch) == 1 or sum(map(cost.of, batch)) <= memory
        assert 1 <= len(batch) <= n_frames


def test_halved_until_it_fits_and_smaller_from_then_on():
    tried = []

    def evaluate(batch):
        tried.append(len(batch))
        if sum(s.n_atoms for s in batch) > 3:
            raise MemoryError
        return [s.n_edges for s in batch]

    structures = [structure(1, index) for index in range(12)]
    cost, room = Cost(1.0, 0.0), Room(8.0)
    found = [r for batch in pack(structures, cost, room) for r in halve_until_it_fits(batch, evaluate, cost, room)]
    assert [edges for part in found for edges in part] == list(range(12))
    assert room.memory == 2.0 and tried == [8, 4, 2, 2, 2, 2, 2, 2]


def test_one_that_does_not_fit_is_described():
    def evaluate(batch):
        raise MemoryError('Unable to allocate 9 GiB')

    cost = Cost(1.0, 0.0)
    with pytest.raises(
        MemoryError,
        match=r'a frame of 7 atoms \(Si7\) with 5 pairs of neighbours does not fit .*\(Unable to allocate 9 GiB',
    ):
        list(halve_until_it_fits([structure(7, 5)], evaluate, cost, Room(1.0)))


def test_other_errors_are_not_taken_for_it():
    def evaluate(batch):
        raise RuntimeError('shapes cannot be multiplied')

    with pytest.raises(RuntimeError, match='shapes cannot be multiplied'):
        list(halve_until_it_fits([structure(1)], evaluate, Cost(1.0, 0.0), Room(1.0)))


@pytest.mark.parametrize(
    ('error', 'expected'),
    [
        (MemoryError(), True),
        (RuntimeError('CUDA out of memory. Tried to allocate 2.00 GiB'), True),
        (RuntimeError('[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: not enough memory: you tried'), True),
        (RuntimeError('index out of range'), False),
        (ValueError('out of memory'), False),
    ],
)
def test_what_says_that_memory_ran_out(error, expected):
    assert is_out_of_memory(error) is expected


def test_the_exceptions_of_torch_say_so():
    import torch

    assert is_out_of_memory(torch.OutOfMemoryError('CUDA out of memory'))
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert is_out_of_memory(caught.value)


def test_tensors_of_a_failed_batch_are_freed_before_the_next_attempt():
    import weakref

    held = []

    class Tensor:
        pass

    def evaluate(batch):
        if len(batch) > 1:
            tensor = Tensor()
            held.append(weakref.ref(tensor))
            raise MemoryError
        assert held[0]() is None
        return 1

    cost = Cost(1.0, 0.0)
    assert list(halve_until_it_fits([structure(1), structure(1)], evaluate, cost, Room(9.0))) == [1, 1]


def test_neighbourhood_of_a_frame():
    frame = Frame.from_atoms(bulk('Si'))
    found = Neighbourhood.of(frame, 3.0)
    assert (found.n_atoms, found.n_edges) == (2, 8)
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=1), 5.43 * np.sqrt(3) / 4, rtol=1e-12)
    assert Neighbourhood.without(frame).n_edges == 0
