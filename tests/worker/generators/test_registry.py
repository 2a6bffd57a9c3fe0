"""Plans of generators."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from ase.build import bulk
from hypothesis import given
from hypothesis import strategies as st

from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.generators import GENERATORS, generate, parse_plan

SILICON = {
    'supercell': {'repeats': [[1, 1, 1], [2, 1, 1], [2, 2, 1], [2, 2, 2]], 'keep': False},
    'strain': {'volumetric': [-0.1, -0.05, 0.0, 0.05, 0.1, 0.15], 'uniaxial': [-0.04, 0.04], 'shear': [0.04]},
    'rattle': {'n': 3, 'amplitudes': [0.02, 0.05, 0.08]},
    'vacancy': {'n_sources': 2},
    'isolated_atom': {},
}


@pytest.fixture
def silicon() -> Frame:
    return Frame.from_atoms(bulk('Si'))


def ids(frames: list[Frame]) -> list[str]:
    return [frame.frame_id for frame in frames]


def test_the_silicon_of_the_demo(silicon: Frame) -> None:
    made = generate([silicon], SILICON, seed=1)
    origins = [frame.origin for frame in made.frames]
    assert {origin: origins.count(origin) for origin in origins} == {
        'strain': 9,
        'rattle': 12,
        'vacancy': 2,
        'isolated_atom': 1,
    }
    assert sorted(len(f) for f in made.frames if f.origin == 'rattle') == [2] * 3 + [4] * 3 + [8] * 3 + [16] * 3
    assert {len(f) for f in made.frames if f.origin == 'vacancy'} <= {7, 15}
    assert not made.rejected and silicon.frame_id in ids(made.frames)
    assert made.notes[0] == 'vacancy: 3 of 12 source frames left out, each has 2 atoms, vacancies need at least 8'


def test_deterministic_whatever_the_order_of_the_plan(silicon: Frame) -> None:
    """Databases do not keep the order of the keys of a mapping."""
    first = generate([silicon], SILICON, seed=1)
    again = generate([silicon], dict(reversed(SILICON.items())), seed=1)
    assert ids(first.frames) == ids(again.frames)
    assert [f.lineage for f in first.frames] == [f.lineage for f in again.frames]
    other = generate([silicon], SILICON, seed=2)
    rattled = {f.frame_id for f in first.frames if f.origin == 'rattle'}
    assert not rattled & set(ids(other.frames))


def test_a_frame_more_changes_nothing_for_the_others(silicon: Frame) -> None:
    """Peer defect 6: only the first input was used."""
    alone = generate([silicon], SILICON, seed=1)
    both = generate([Frame.from_atoms(bulk('Ge')), silicon], {**SILICON, 'vacancy': {}}, seed=1)
    of_rattle = {f.frame_id for f in alone.frames if f.origin == 'rattle'}
    assert of_rattle <= set(ids(both.frames))
    assert {f.formula for f in both.frames if f.origin == 'isolated_atom'} == {'Si', 'Ge'}
    assert {f.formula for f in both.frames if f.origin == 'vacancy'} == {'Si7', 'Si15', 'Ge7', 'Ge15'}


def test_lineage(silicon: Frame) -> None:
    made = generate([silicon], {**SILICON, 'supercell': {}}, seed=1).frames
    root = silicon.frame_id[:16]
    assert {f.lineage for f in made if f.origin == 'supercell'} == {root}
    assert [f.lineage for f in made if f.origin == 'strain'] == [f'{root}:strain:{k}' for k in range(9) if k != 2]
    rattled = {f.lineage for f in made if f.origin == 'rattle'}
    assert rattled == {f'{root}:rattle:{k}' for k in range(12)}
    vacancies = [f for f in made if f.origin == 'vacancy']
    assert {f.lineage for f in vacancies} <= rattled
    assert all(
        [done['generator'] for done in f.metadata['generated']] == ['supercell', 'rattle', 'vacancy'] for f in vacancies
    )


def test_vacancies_of_one_perfect_crystal_share_a_lineage(silicon: Frame) -> None:
    """They are images of each other by symmetry: apart, they would leak from training into test."""
    plan = {'supercell': {'repeats': [[2, 2, 1], [2, 2, 2]], 'keep': False}, 'vacancy': {'n': 3}}
    made = generate([silicon], plan, seed=1).frames
    lineages = [f.lineage for f in made]
    assert len(made) == 6 and len(set(lineages)) == 2 and len({(len(f), f.lineage) for f in made}) == 2


def test_lineage_of_the_input_is_kept_by_what_is_not_distorted(silicon: Frame) -> None:
    made = generate(
        [silicon.replace(lineage='md-1', split='test')], {'supercell': {}, 'rattle': {'n': 1}}, seed=1
    ).frames
    assert {f.lineage for f in made if f.origin == 'supercell'} == {'md-1'}
    assert all(f.lineage.startswith(silicon.frame_id[:16]) for f in made if f.origin == 'rattle')
    assert all(f.split == '' for f in made)


def test_labels_are_dropped(silicon: Frame) -> None:
    labelled = silicon.replace(energy=-1.0, forces=np.zeros((2, 3)), stress=np.eye(3), level_of_theory='pbe')
    made = generate([labelled], SILICON, seed=1)
    assert all(
        f.energy is None and f.forces is None and f.stress is None and not f.level_of_theory for f in made.frames
    )
    assert ids(made.frames) == ids(generate([silicon], SILICON, seed=1).frames)


def test_two_steps_of_one_generator(silicon: Frame) -> None:
    plan = {
        'strain': {'volumetric': [-0.05, 0.05], 'uniaxial': [], 'shear': []},
        'shake': {'generator': 'rattle', 'n': 2, 'on': 'strain'},
        'rattle': {'n': 1, 'on': ['input', 'strain']},
    }
    made = generate([silicon], plan, seed=1).frames
    assert [f.origin for f in made] == ['strain'] * 2 + ['rattle'] * 7
    assert (
        sum(f.lineage.endswith(':rattle:0') for f in made) == 1
    )  # the rattled input; the rest keep that of their strain
    assert sum(':strain:' in f.lineage for f in made) == 8


def test_too_large_and_too_close_are_reported(silicon: Frame) -> None:
    plan = {'supercell': {'repeats': [[1, 1, 1], [2, 2, 2]]}, 'rattle': {'n': 100, 'amplitudes': [0.5]}}
    made = generate([silicon], plan, seed=1, max_atoms=15, min_distance=0.6)
    assert all(len(f) <= 15 for f in made.frames)
    large = [r for r in made.rejected if r.step == 'supercell']
    assert [r.reason for r in large] == ['16 atoms, above the bound of 15']
    close = [r for r in made.rejected if r.step == 'rattle']
    assert close and all('Si-Si distance of' in r.reason and 'bound of 0.6' in r.reason for r in close)
    # A supercell that is refused is not rattled either.
    assert len(close) + sum(f.origin == 'rattle' for f in made.frames) == 100


def test_max_atoms_is_never_exceeded(silicon: Frame) -> None:
    """Peer defect 9: one atom above the bound."""
    plan = {'supercell': {'repeats': [[2, 2, 2], [1, 1, 1]]}}
    assert [len(f) for f in generate([silicon], plan, seed=1, max_atoms=16).frames] == [16, 2]
    assert [len(f) for f in generate([silicon], plan, seed=1, max_atoms=15).frames] == [2]


def test_duplicates_are_left_out_and_said(silicon: Frame) -> None:
    """Peer defect 8: exact duplicates."""
    made = generate([silicon, silicon], {'supercell': {}, 'strain': {'volumetric': [0.0]}, 'isolated_atom': {}}, seed=1)
    assert len(set(ids(made.frames))) == len(made.frames)
    assert 'supercell: 4 of 8 frames left out as duplicates' in made.notes
    assert 'isolated_atom: 1 of 2 frames left out as duplicates' in made.notes


def test_n_sources_draws_among_those_that_suit(silicon: Frame) -> None:
    plan = {**SILICON, 'vacancy': {'n_sources': 3, 'min_atoms': 16}}
    made = generate([silicon], plan, seed=1).frames
    assert [len(f) for f in made if f.origin == 'vacancy'] == [15, 15, 15]


@given(seed=st.integers(0, 2**31 - 1), max_atoms=st.integers(1, 20), min_distance=st.floats(0.1, 1.0))
def test_invariants(seed: int, max_atoms: int, min_distance: float) -> None:
    frame = Frame.from_atoms(bulk('NaCl', 'rocksalt', a=5.6))
    plan = {'supercell': {}, 'strain': {'n_random': 2}, 'rattle': {}, 'vacancy': {}, 'isolated_atom': {}}
    made = generate([frame], plan, seed, max_atoms, min_distance)
    assert len(set(ids(made.frames))) == len(made.frames)
    for f in made.frames:
        assert len(f) <= max_atoms and f.lineage and f.origin in GENERATORS
        if f.origin == 'isolated_atom':
            continue
        assert np.array_equal(f.pbc, frame.pbc)
        counts = np.bincount(f.numbers, minlength=18)
        removed = 1 if f.origin == 'vacancy' else 0
        assert abs(counts[11] - counts[17]) == removed and counts.sum() == counts[11] + counts[17]


def test_every_generator_has_defaults_and_documented_parameters() -> None:
    for name, generator in GENERATORS.items():
        assert generator.name == name
        generator.parameters()
        for field in dataclasses.fields(generator.parameters):
            assert f':param {field.name}:' in generator.parameters.__doc__


@pytest.mark.parametrize(
    ('plan', 'message'),
    [
        ({}, 'the plan is empty'),
        ({'ratle': {}}, "unknown generator 'ratle'. Did you mean 'rattle'?"),
        ({'shake': {'generator': 'strian'}}, "Did you mean 'strain'?"),
        ({'rattle': {'amplitude': [0.1]}}, "unknown parameter of `rattle` 'amplitude'. Did you mean 'amplitudes'?"),
        ({'rattle': {'n_source': 2}}, "Did you mean 'n_sources'?"),
        ({'rattle': 3}, "step 'rattle' of the plan is 3"),
        ({'rattle': {'n': 0}}, "step 'rattle' of the plan: `n` is 0"),
        ({'rattle': {'on': 'supercel'}, 'supercell': {}}, "Did you mean 'supercell'?"),
        ({'rattle': {'on': 'rattle'}}, "unknown step to act `on`: 'rattle'"),
        ({'rattle': {'on': 'strain'}, 'strain': {'on': 'rattle'}}, 'wait for each other'),
        ({'rattle': {'keep': 'no'}}, "`keep` of step 'rattle'"),
        ({'rattle': {'n_sources': 0}}, '`n_sources` of step `rattle` is 0'),
        ({'input': {'generator': 'rattle'}}, 'cannot be named'),
    ],
)
def test_bad_plans(plan: dict, message: str) -> None:
    with pytest.raises(ValueError) as error:
        parse_plan(plan)
    assert message in str(error.value)


def test_no_frames() -> None:
    with pytest.raises(ValueError, match='at least one structure'):
        generate([], SILICON, seed=1)
