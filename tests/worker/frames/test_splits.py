from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiida_alpot.worker.frames import assign_splits

FRACTIONS = {'train': 0.8, 'validation': 0.1, 'test': 0.1}


def frames_per_split(lineages, splits):
    return Counter(splits[lineage] for lineage in lineages)


@pytest.mark.parametrize('group', [1, 5])
def test_proportional_at_any_group_size(group):
    """Defect 11: a peer gave 79/20/1 for 20 groups of 5, and failed for groups of one."""
    lineages = [f'g{i // group}' for i in range(100)]
    counts = frames_per_split(lineages, assign_splits(lineages, FRACTIONS, seed=3))
    assert counts == {'train': 80, 'validation': 10, 'test': 10}


def test_one_giant_group_is_trained_on():
    assert assign_splits(['a'] * 100, FRACTIONS, seed=0) == {'a': 'train'}


def test_giant_group_among_small_ones():
    lineages = ['giant'] * 80 + [f's{i}' for i in range(20)]
    for seed in range(10):
        splits = assign_splits(lineages, FRACTIONS, seed)
        assert splits['giant'] == 'train'
        assert frames_per_split(lineages, splits) == {'train': 80, 'validation': 10, 'test': 10}


def test_no_split_stays_empty_where_there_are_enough_lineages():
    assert set(assign_splits(['a', 'b', 'c'], FRACTIONS, seed=1).values()) == set(FRACTIONS)
    assert Counter(assign_splits(['a', 'b'], {'train': 0.9, 'validation': 0.1}, seed=1).values()) == {
        'train': 1,
        'validation': 1,
    }


def test_splits_once_given_stay_and_the_whole_stays_proportional():
    first = [f'a{i}' for i in range(50)]
    old = assign_splits(first, FRACTIONS, seed=1)
    second = [f'b{i}' for i in range(50)] + ['a0', 'a1']
    new = assign_splits(second, FRACTIONS, seed=2, given=old, given_counts=Counter(old.values()))
    assert new['a0'] == old['a0']
    assert new['a1'] == old['a1']
    total = Counter(old.values()) + frames_per_split(second, new)
    for name, fraction in FRACTIONS.items():
        assert abs(total[name] - fraction * 102) <= 1


def test_order_of_the_frames_does_not_matter_and_the_seed_does():
    lineages = [f'g{i}' for i in range(30)]
    assert assign_splits(lineages, FRACTIONS, 5) == assign_splits(lineages[::-1], FRACTIONS, 5)
    assert assign_splits(lineages, FRACTIONS, 5) != assign_splits(lineages, FRACTIONS, 6)


@given(sizes=st.lists(st.integers(1, 20), min_size=1, max_size=40), seed=st.integers(0, 1000))
def test_deviation_is_bounded_by_the_largest_group(sizes, seed):
    lineages = [f'g{i}' for i, size in enumerate(sizes) for _ in range(size)]
    splits = assign_splits(lineages, FRACTIONS, seed)
    assert set(splits) == set(lineages)
    counts = frames_per_split(lineages, splits)
    for name, fraction in FRACTIONS.items():
        # Each of three groups may overshoot once, and a smallest group may move to a split that would stay empty.
        assert abs(counts[name] - fraction * len(lineages)) <= 3 * max(sizes)


@pytest.mark.parametrize(
    ('fractions', 'message'),
    [
        ({'train': 0.8}, 'add up to 1'),
        ({'train': 1.5, 'test': -0.5}, 'at least 0'),
        ({'train': float('nan')}, 'add up to 1'),
        ({'train': 0.9, 'valid': 0.1}, 'unknown split'),
    ],
)
def test_bad_fractions_are_refused(fractions, message):
    with pytest.raises(ValueError, match=message):
        assign_splits(['a'], fractions, seed=0)


def test_bad_lineages_and_given_splits_are_refused():
    with pytest.raises(ValueError, match='without lineage'):
        assign_splits(['a', ''], FRACTIONS, seed=0)
    with pytest.raises(ValueError, match='unknown split'):
        assign_splits(['a'], FRACTIONS, seed=0, given={'a': 'holdout'})


def test_fixed_test_set_does_not_distort_the_others():
    fractions = {'train': 0.9, 'validation': 0.1}
    lineages = [f'g{i}' for i in range(100)]
    splits = assign_splits(lineages, fractions, seed=0, given_counts={'test': 50})
    assert frames_per_split(lineages, splits) == {'train': 90, 'validation': 10}
