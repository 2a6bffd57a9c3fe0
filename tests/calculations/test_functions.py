import io

import numpy as np
import pytest
from aiida import orm
from ase.build import bulk

from aiida_alpot.calculations.functions import (
    assemble_committee,
    extend_dataset,
    merge_datasets,
    structures_to_frames,
)
from aiida_alpot.data.pes import PESData
from aiida_alpot.data.potential import PotentialData
from aiida_alpot.worker.frames import Frame

pytestmark = pytest.mark.usefixtures('aiida_profile_clean')


def extend(labelled, dataset=None, fractions=(0.8, 0.1, 0.1), seed=1):
    fractions = orm.Dict(dict(zip(('train', 'validation', 'test'), fractions, strict=True)))
    inputs = {} if dataset is None else {'dataset': dataset}
    return extend_dataset(labelled=labelled, fractions=fractions, seed=orm.Int(seed), **inputs)


def splits_of(node):
    return dict(zip(node.column('lineage').tolist(), node.column('split').tolist(), strict=True))


def test_structures_to_frames():
    structures = {key: orm.StructureData(ase=bulk(symbol)) for key, symbol in (('b', 'Si'), ('a', 'Cu'))}
    node = structures_to_frames(**structures)
    assert [frame.formula for frame in node] == ['Cu', 'Si2']
    assert node.origins == {'input': 2}
    assert all(frame.frame_id.startswith(frame.lineage) and frame.lineage for frame in node)
    assert np.allclose(node.frame(1).cell, bulk('Si').cell.array, rtol=0, atol=1e-12)
    assert node.creator.process_label == 'structures_to_frames'


def test_merge_datasets(make_frame):
    nodes = {f'set_{i}': PESData(frames=[make_frame(i)]) for i in range(12)}
    merged = merge_datasets(**nodes)
    assert merged.shards == [nodes[key].shards[0] for key in sorted(nodes)]
    assert merged.creator.process_label == 'merge_datasets'


def test_assemble_committee():
    fields = {'trainer': 'mace', 'elements': ['Si'], 'cutoff': 5.0, 'dtype': 'float64'}
    potentials = {
        f'member_{i}': PotentialData(io.BytesIO(b'weights'), 'a.model', seed=10 + i, **fields) for i in range(2)
    }
    committee = assemble_committee(**potentials)
    assert committee.seeds == [10, 11]
    assert committee.creator.process_label == 'assemble_committee'


class TestExtendDataset:
    def test_first_set_is_split_by_lineage(self, make_frame):
        frames = [make_frame(i, lineage=f'trajectory-{i // 2}') for i in range(40)]
        dataset = extend(PESData(frames=frames))
        assert dataset.splits == {'train': 32, 'validation': 4, 'test': 4}
        lineages, splits = dataset.column('lineage'), dataset.column('split')
        assert all(len(set(splits[lineages == lineage])) == 1 for lineage in set(lineages))
        assert dataset.creator.process_label == 'extend_dataset'
        assert dataset.column('frame_id').tolist() == [frame.frame_id for frame in frames]

    def test_old_shards_stay_and_old_lineages_keep_their_splits(self, make_frame):
        old = extend(PESData(frames=[make_frame(i) for i in range(20)]))
        before = splits_of(old)
        frames = [make_frame(100 + i, lineage=f'lineage-{i}') for i in range(20)] + [make_frame(i) for i in (3, 200)]
        new = extend(PESData(frames=frames), old, seed=2)
        assert new.shards[: len(old.shards)] == old.shards
        assert len(new.shards) == len(old.shards) + 1
        assert len(new) == 41
        after = splits_of(new)
        assert {lineage: after[lineage] for lineage in before} == before

    def test_of_few_new_lineages_one_is_trained_on(self, make_frame):
        """A round of one trajectory would be lost to the training, though the validation set lacks frames more."""
        first = extend(PESData(frames=[make_frame(i, split='train') for i in range(9)]))
        bought = PESData(frames=[make_frame(20 + i, lineage='md:1:0', origin='md') for i in range(3)])
        extended = extend(bought, first)
        assert extended.column('split')[-3:].tolist() == ['train'] * 3
        preset = PESData(frames=[make_frame(30 + i, lineage='md:t:0', split='test') for i in range(3)])
        assert extend(preset, first).column('split')[-3:].tolist() == ['test'] * 3

    def test_known_and_repeated_frames_are_left_out(self, make_frame):
        old = extend(PESData(frames=[make_frame(i) for i in range(4)]))
        assert len(extend(PESData(frames=[make_frame(9), make_frame(9)]), old)) == 5
        same = extend(PESData(frames=[make_frame(2)]), old)
        assert same.shards == old.shards
        assert same.base.caching.get_hash() == old.base.caching.get_hash()

    def test_preset_splits_stay_for_the_whole_lineage(self, make_frame):
        frames = [make_frame(0, lineage='md', split='test'), make_frame(1, lineage='md')]
        frames += [make_frame(i) for i in range(2, 30)]
        dataset = extend(PESData(frames=frames), fractions=(0.9, 0.1, 0.0))
        assert splits_of(dataset)['md'] == 'test'
        assert dataset.splits['test'] == 2

    def test_lineage_in_two_splits_is_refused(self, make_frame):
        frames = [make_frame(0, lineage='md', split='test'), make_frame(1, lineage='md', split='train')]
        with pytest.raises(ValueError, match='lineage `md` has frames in `test` and in `train`'):
            extend(PESData(frames=frames))

    def test_isolated_atoms_are_trained_on(self, make_frame):
        atoms = [
            Frame([z], np.zeros((1, 3)), np.eye(3) * 15, [False] * 3, energy=-1.0 * z, origin='isolated_atom',
                  lineage=f'isolated_atom:{z}', level_of_theory='pbe')
            for z in range(1, 9)
        ]  # fmt: skip
        dataset = extend(PESData(frames=[*atoms, *(make_frame(i) for i in range(3))]))
        splits = splits_of(dataset)
        assert {splits[atom.lineage] for atom in atoms} == {'train'}
        assert dataset.splits == {'train': 9, 'validation': 1, 'test': 1}

    def test_frames_without_lineage_are_their_own(self, make_frame):
        dataset = extend(PESData(frames=[make_frame(i, lineage='') for i in range(10)]))
        assert dataset.splits == {'train': 8, 'validation': 1, 'test': 1}
        assert len(set(dataset.column('lineage'))) == 10

    def test_two_levels_of_theory_are_refused(self, make_frame):
        old = extend(PESData(frames=[make_frame(i) for i in range(3)]))
        atom = Frame([14], np.zeros((1, 3)), np.zeros((3, 3)), [False] * 3, energy=-1.0, level_of_theory='lda')
        for frame in (make_frame(9, level_of_theory='lda'), make_frame(9, level_of_theory=''), atom):
            with pytest.raises(ValueError, match='2 levels of theory'):
                extend(PESData(frames=[frame]), old)

    def test_unlabelled_frames_are_refused(self, make_frame):
        with pytest.raises(ValueError, match='no energy'):
            extend(PESData(frames=[make_frame(0), make_frame(1, labelled=False)]))

    def test_equal_inputs_give_equal_content(self, make_frame):
        labelled = PESData(frames=[make_frame(i) for i in range(20)])
        assert extend(labelled).content_hash == extend(labelled).content_hash
        assert extend(labelled, seed=2).content_hash != extend(labelled).content_hash
