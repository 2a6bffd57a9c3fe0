"""The loop: what is refused before it starts, and when it ends."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from aiida import orm
from aiida.common import AttributeDict
from ase import Atoms
from ase.build import bulk
from plumpy.ports import PortNamespace

from aiida_alpot.data.pes import PESData
from aiida_alpot.data.potential import PotentialData
from aiida_alpot.workflows.active_learning import STAGES, ActiveLearningWorkChain, end_of_campaign
from aiida_alpot.workflows.campaign_checks import check_numbers, check_targets, validate_start
from aiida_alpot.workflows.labelling import level_of_inputs

PEER_INPUTS = 357
"""Leaf inputs of the closest peer (defect 21)."""

NOT_MEASURED = {'rmse': None, 'n': 0}
NO_TARGETS = {'energy': None, 'forces': None, 'stress': None}


def measured(energy: float, forces: float) -> dict[str, Any]:
    """Metrics of one split."""
    return {'energy': {'rmse': energy, 'n': 5}, 'forces': {'rmse': forces, 'n': 30}, 'stress': NOT_MEASURED}


EMPTY = dict.fromkeys(('energy', 'forces', 'stress'), NOT_MEASURED)


def end(**changes: Any) -> str | None:
    """Why a campaign ends that nothing ends unless said otherwise."""
    values: dict[str, Any] = {
        'rounds_without_candidate': 0,
        'patience': 2,
        'metrics': {'train': measured(0, 0), 'validation': measured(0.01, 0.2), 'test': measured(0.02, 0.3)},
        'targets': NO_TARGETS,
        'round_number': 1,
        'max_rounds': 3,
    }
    return end_of_campaign(**{**values, **changes})


class TestEndOfCampaign:
    """Each reason, and what does not count."""

    def test_goes_on(self) -> None:
        """Nothing is reached."""
        assert end() is None
        assert end(rounds_without_candidate=1) is None

    def test_nothing_selected_is_a_normal_end(self) -> None:
        """Convergence, where the peer crashed (defect 13); it comes before the other reasons."""
        assert end(rounds_without_candidate=2) == 'converged'
        assert end(rounds_without_candidate=1, patience=1, round_number=3) == 'converged'

    def test_max_rounds(self) -> None:
        """So many trainings, not one more."""
        assert end(round_number=3) == 'max_rounds'
        assert end(round_number=2) is None

    @pytest.mark.parametrize(
        ('targets', 'reached'),
        [
            ({'forces': 0.3}, True),
            ({'forces': 0.29}, False),
            ({'forces': 0.5, 'energy': 0.02}, True),
            ({'forces': 0.5, 'energy': 0.015}, False),
            ({'forces': 0.5, 'stress': 1.0}, False),  # stress was not measured
        ],
    )
    def test_targets(self, targets: dict[str, float], reached: bool) -> None:
        """All of them, on the test set."""
        assert end(targets={**NO_TARGETS, **targets}) == ('targets' if reached else None)

    @pytest.mark.parametrize('test', [EMPTY, {}, None])
    def test_without_test_set_validation_counts(self, test: Any) -> None:
        """Metrics list the test split also where it has no frames."""
        metrics = {'validation': measured(0.01, 0.2), 'test': test}
        assert end(metrics=metrics, targets={'forces': 0.25}) == 'targets'
        assert end(metrics=metrics, targets={'forces': 0.15}) is None
        assert end(metrics={'validation': EMPTY, 'test': EMPTY}, targets={'forces': 0.15}) is None


class TestNumbers:
    """The numbers of a campaign."""

    @pytest.mark.parametrize('protocol', ActiveLearningWorkChain.get_available_protocols())
    def test_protocols(self, protocol: str) -> None:
        """They pass their own check."""
        assert check_numbers(ActiveLearningWorkChain.get_protocol_inputs(protocol)) is None

    @pytest.mark.parametrize(
        ('changes', 'sentence'),
        [
            ({'max_rounds': 0}, '`max_rounds` is 0, expected a whole number at least 1'),
            ({'max_rounds': 2.5}, '`max_rounds` is 2.5'),
            ({'max_rounds': None}, '`max_rounds` is None'),
            ({'patience': True}, '`patience` is True'),
            ({'n_test_frames': -1}, '`n_test_frames` is -1'),
            ({'seed': 'random'}, "`seed` is 'random'"),
            ({'seed': -1}, '`seed` is -1'),
            (
                {'split_fractions': {'train': 0.7, 'validation': 0.2, 'test': 0.0}},
                '`split_fractions`: must add up to 1',
            ),
            (
                {'split_fractions': {'train': 1.0, 'validation': 0.0, 'test': 0.0}},
                '`split_fractions.validation` is 0.0',
            ),
            ({'split_fractions': {'train': 1.2, 'validation': -0.2, 'test': 0.0}}, '`split_fractions.train` is 1.2'),
            ({'split_fractions': {'train': 'most', 'validation': 0.2, 'test': 0}}, "`split_fractions.train` is 'most'"),
            ({'targets': {'force': 0.1}}, '`targets`: unknown property `force`: choose from energy, forces, stress'),
            ({'targets': {'forces': -0.1}}, '`targets`: the target of forces must be a number above zero, found -0.1'),
        ],
    )
    def test_refusals(self, changes: dict[str, Any], sentence: str) -> None:
        """The field, what was found, what was expected."""
        problem = check_numbers({**ActiveLearningWorkChain.get_protocol_inputs(), **changes})
        assert problem is not None and problem.startswith(sentence)

    def test_targets(self) -> None:
        """Null is no target; zero cannot be reached."""
        assert check_targets(NO_TARGETS) is None and check_targets({'forces': 0.1}) is None
        assert 'above zero, found 0' in str(check_targets({'energy': 0}))
        assert "found 'small'" in str(check_targets({'energy': 'small'}))


def leaves(namespace: PortNamespace, path: str = '') -> Iterator[str]:
    """Full names of the inputs below a namespace; one without ports of its own counts as one."""
    for name, port in namespace.items():
        if isinstance(port, PortNamespace) and len(port):
            yield from leaves(port, f'{path}{name}.')
        else:
            yield f'{path}{name}'


class TestSpec:
    """What the chain shows to the outside."""

    def test_number_of_inputs(self) -> None:
        """Fewer than the peer's, of which most are AiiDA's `metadata`; the rest fits a screen."""
        names = list(leaves(ActiveLearningWorkChain.spec().inputs))
        own = [name for name in names if 'metadata' not in name]
        assert len(names) < 200 < PEER_INPUTS
        assert len(own) < 55

    def test_outputs(self) -> None:
        """The names that reports, exports and users rely on."""
        outputs = ActiveLearningWorkChain.spec().outputs
        assert set(outputs) == {'results', 'dataset', 'committee', 'calibration', 'rounds', 'labelling'}
        assert not any(outputs[name].required for name in ('results', 'dataset', 'committee', 'calibration'))

    def test_one_exit_code_a_stage(self) -> None:
        """Each names the round, the reason and the process."""
        codes = ActiveLearningWorkChain.exit_codes
        statuses = [getattr(codes, f'ERROR_{stage.upper()}_FAILED').status for stage in STAGES]
        assert statuses == [401, 402, 403, 404, 405]
        for stage in STAGES:
            message = getattr(codes, f'ERROR_{stage.upper()}_FAILED').message
            assert all(f'{{{name}}}' in message for name in ('round', 'reason', 'pk')) and message.startswith(stage)

    def test_outline_overrides_nothing_of_the_engine(self) -> None:
        """Steps named as methods of plumpy's process would crash it."""
        from aiida.engine import WorkChain

        for chain in (ActiveLearningWorkChain, *STAGES.values()):
            clashes = {name for name in vars(chain) if hasattr(WorkChain, name) and not name.startswith('_')}
            assert clashes - {'STATES'} == {'define'}, chain  # plumpy adds STATES to a class that has run

    def test_start(self) -> None:
        """Structures with a plan, or a data set."""
        assert validate_start({'dataset': 1}, None) is None
        assert validate_start({'structures': {'a': 1}, 'augmentation': {'parameters': 1}}, None) is None
        assert '`structures` is empty' in str(validate_start({}, None))
        assert '`augmentation.parameters` is missing' in str(validate_start({'structures': {'a': 1}}, None))


def build(codes: dict[str, Any], structures: Any = None, **kwargs: Any) -> Any:
    """Builder of the fast protocol for silicon."""
    overrides = {'labelling': {'pseudo_family': 'Debian/PBE'}, **kwargs.pop('overrides', {})}
    structures = {'silicon': bulk('Si')} if structures is None else structures
    return ActiveLearningWorkChain.get_builder_from_protocol(
        structures, codes, protocol=kwargs.pop('protocol', 'fast'), overrides=overrides, **kwargs
    )


@pytest.fixture
def make_dataset(campaign_codes: dict[str, str], make_frame: Callable) -> Callable[..., PESData]:
    """Factory of labelled data sets of two frames at the level of theory of the campaign."""

    def make(numbers: Sequence[int] = (14, 14, 14, 14), **changes: Any) -> PESData:
        labelling = build(
            campaign_codes, Atoms(list(numbers), np.eye(len(numbers), 3) * 3, cell=[9] * 3, pbc=True)
        ).labelling
        level = level_of_inputs(labelling)
        return PESData(
            frames=[
                make_frame(
                    i,
                    len(numbers),
                    **{
                        'numbers': list(numbers),
                        'split': split,
                        'origin': 'supercell',
                        **changes,
                        'level_of_theory': changes.get('level_of_theory', '{level}').format(
                            level=level, base=level.base, isolated=level.of(level.potentials, 'isolated')
                        ),
                    },
                )
                for i, split in enumerate(('train', 'validation'))
            ]
        )

    return make


CLOSE = Atoms('Si2', [[0, 0, 0.1], [0, 0, 5.4]], cell=5.43 * np.eye(3), pbc=True)


class TestBuilder:
    """One call for everything."""

    def test_inputs(self, campaign_codes: dict[str, str]) -> None:
        """Each stage with its protocol and its overrides; seeds follow from one."""
        builder = build(
            campaign_codes,
            overrides={
                'labelling': {'pseudo_family': 'Debian/PBE', 'kpoints_distance': 0.7},
                'exploration': {'temperatures': [400.0]},
                'training': {'n_members': 5},
                'evaluation': {'tolerance': {'forces': 0.3}},
                'augmentation': {'generators': {'rattle': {'n': 1}, 'vacancy': None}},
                'max_rounds': 7,
                'seed': 11,
            },
            options={'labelling': {'account': 'mine'}, 'evaluation': {'account': 'yours'}},
        )
        assert builder.labelling.kpoints_distance.value == 0.7
        assert builder.exploration.conditions['temperatures'] == [400.0]
        assert builder.training.n_members.value == 5
        assert builder.evaluation.parameters['tolerance']['forces'] == 0.3
        assert builder.augmentation.parameters['generators']['vacancy'] is None
        assert (builder.max_rounds.value, builder.patience.value, builder.seed.value) == (7, 1, 11)
        assert builder.labelling.pw.pw.metadata.options.account == 'mine'
        assert builder.evaluation.options['account'] == 'yours'
        assert 'account' not in builder.training.train.metadata.options
        assert not any('seed' in builder[stage] for stage in STAGES)

    def test_process_can_be_made(self, campaign_codes: dict[str, str], instantiate: Callable) -> None:
        """The builder is complete: AiiDA accepts it as it is."""
        chain = instantiate(build(campaign_codes))
        assert chain.inputs.structures.silicon.get_formula() == 'Si2'

    def test_process_from_a_data_set(
        self, campaign_codes: dict[str, str], instantiate: Callable, make_dataset: Callable
    ) -> None:
        """Neither structures nor augmentation; the elements are those of the data set."""
        dataset = make_dataset([1, 1, 14, 14])
        chain = instantiate(build(campaign_codes, [], dataset=dataset))
        assert 'structures' not in chain.inputs and 'augmentation' not in chain.inputs
        assert set(chain.inputs.labelling.pw.pw.pseudos) == {'H', 'Si'}
        chain.initialise()
        assert not chain.needs_initial_data() and chain.dataset.uuid == dataset.uuid

    def test_treatments_may_be_mixed(self, campaign_codes: dict[str, str], make_dataset: Callable) -> None:
        """Isolated atoms have a level of their own, at the same base."""
        build(campaign_codes, [], dataset=make_dataset(level_of_theory='{isolated}'))

    @pytest.mark.parametrize(
        ('changes', 'sentence'),
        [
            (
                {'level_of_theory': 'lda'},
                '`dataset`: its labels are of level of theory lda, and this campaign would add',
            ),
            ({'level_of_theory': ''}, '`dataset`: its labels are of level of theory unknown'),
            (
                {'level_of_theory': '{base}[Si:0123456789ab]'},
                'the labels come from several pseudopotentials of Si (MD5 0123456789ab, ',
            ),
            (
                {'energy': None, 'forces': None, 'stress': None, 'level_of_theory': ''},
                '`dataset`: it has no labels, and this campaign would add',
            ),
            ({'split': 'train'}, '`dataset`: the data set has no labelled frame in split `validation`'),
            ({'origin': 'surface'}, '`exploration.start_origins`: of input, supercell the data set has no frame'),
            ({'numbers': [14]}, '`exploration.start_origins`: of input, supercell the data set has no frame'),
            ({'cell': np.diag([2.0, 9.0, 9.0])}, '`exploration.min_thickness`: all start frames have a cell thinner'),
            ({'pbc': [False] * 3}, '`exploration.ensembles` is npt, but the structure is not periodic'),
        ],
    )
    def test_data_sets_are_refused(
        self, campaign_codes: dict[str, str], make_dataset: Callable, changes: dict[str, Any], sentence: str
    ) -> None:
        """One that the campaign could not go on from: labels that do not fit, nothing to learn from or start from."""
        dataset = make_dataset(**changes)
        with pytest.raises(ValueError) as error:
            build(
                campaign_codes,
                [],
                dataset=dataset,
                overrides={'exploration': {'start_origins': ['input', 'supercell']}},
            )
        assert sentence in str(error.value)

    @pytest.mark.parametrize('protocol', ActiveLearningWorkChain.get_available_protocols())
    def test_protocols(self, campaign_codes: dict[str, str], protocol: str) -> None:
        """No default fails its own validator (peer defect 21)."""
        assert build(campaign_codes, protocol=protocol).max_rounds.value > 0

    @pytest.mark.parametrize(
        ('structures', 'overrides', 'sentence'),
        [
            (bulk('W'), {}, "`labelling.pseudo_family`: 'Debian/PBE' has no pseudopotential for W; choose a family"),
            ([], {}, '`structures`: the list is empty; give at least one structure'),
            ({'si': CLOSE}, {}, '`structures.si`: atoms 0 and 1 are 0.130 A apart; remove one'),
            (
                None,
                {'evaluation': {'tolerance': {'forces': -0.1}}},
                '`evaluation`: `tolerance.forces` is -0.1, expected',
            ),
            (None, {'max_round': 3}, 'unknown option `max_round`: did you mean `max_rounds`?'),
            (None, {'training': {'n_member': 3}}, 'unknown option `training.n_member`: did you mean `n_members`?'),
            (None, {'labelling': {'pseudo_family': 'none'}}, "`labelling.pseudo_family`: 'none' is not installed"),
            (
                None,
                {'augmentation': {'generators': {'ratle': {}}}},
                "unknown generator 'ratle'. Did you mean 'rattle'?",
            ),
            (None, {'augmentation': {'generators': {'rattle': {'m': 3}}}}, "unknown parameter of `rattle` 'm'"),
            (None, {'exploration': {'temperatures': [-1.0]}}, '`exploration.temperatures` is -1.0'),
            (None, {'exploration': 3}, 'option `exploration` must be a mapping, found 3'),
            (None, {'max_rounds': 0}, '`max_rounds` is 0'),
            (
                None,
                {'exploration': {'start_origins': ['input']}},
                '`exploration.start_origins`: of input the augmentation makes no structure of at least 1 atoms',
            ),
            (None, {'exploration': {'start_origins': 'supercell'}}, 'must be a list of names, found'),
            (None, {'exploration': {'start_min_atoms': 1000}}, 'with at most 16 atoms'),
            (None, {'exploration': {'ensembles': ['npx']}}, "`exploration.ensembles`: unknown value 'npx'"),
            (None, {'exploration': {'timestep': 8.0}}, '`exploration.timestep` is 8.0: give femtoseconds in (0, 5]'),
            (None, {'exploration': {'min_thickness': 40.0}}, '`exploration.min_thickness`: all start frames have a'),
            (None, {'exploration': {'start_frames': [0]}}, '`exploration.start_frames`: the frames are not made yet'),
            (
                None,
                {'exploration': {'uncertainty': {'lower': None, 'grade_lower': 2.0}}},
                '`exploration.uncertainty.grade_lower`: needs an active set',
            ),
            (
                Atoms('SiH', [[0, 0, 0], [0, 0, 1.5]], cell=[6, 6, 6], pbc=True),
                {'exploration': {'timestep': 3.0, 'start_origins': []}},
                '`exploration.timestep` is 3.0 fs, and the structure has hydrogen',
            ),
            (
                Atoms('Si2', [[0, 0, 4], [0, 0, 6.3]], cell=[6, 6, 10], pbc=[True, True, False]),
                {'exploration': {'pressure_axes': ['z'], 'start_origins': []}},
                '`exploration.pressures` names the axis z, along which the structure is not periodic',
            ),
            (
                None,
                {'exploration': {'n_steps': 5, 'sample_every': 10}},
                '`exploration.sample_every` is larger than `n_steps`',
            ),
            (None, {'augmentation': {'max_atoms': 'abc'}}, "`augmentation`: `max_atoms` is 'abc'"),
            (None, {'augmentation': {'max_atoms': 1, 'generators': {'isolated_atom': None}}}, 'no structure comes out'),
            (None, {'augmentation': {'generators': {'vacency': None}}}, "Did you mean 'vacancy'?"),
            (None, {'training': {'device': 'gpu'}}, "`training`: `device` is 'gpu'"),
            (None, {'training': {'cutoff': -1}}, '`training`: `cutoff` is -1, expected'),
            (None, {'training': {'parameters': {'mace': {'num_chanels': 8}}}}, "Did you mean 'num_channels'?"),
            (None, {'training': {'warm_start': {'reset_every': 0}}}, '`warm_start.reset_every` is 0'),
            (
                None,
                {'labelling': {'pseudo_family': 'Debian/PBE', 'parameters': {'CONTROL': {'calculation': 'relax'}}}},
                '`labelling.parameters.CONTROL.calculation`: is set by the labelling itself',
            ),
            (
                None,
                {'labelling': {'pseudo_family': 'Debian/PBE', 'parameters': {'SYTEM': {}}}},
                '`labelling.parameters.SYTEM`: must be a mapping in one of the cards CONTROL, SYSTEM, ELECTRONS',
            ),
            (None, {'labelling': {'pw_protocol': 'nope'}}, "`labelling.pw_protocol`: 'nope' is none of"),
            (
                Atoms('Si2', [[0, 0, 0], [0, 0, 2.3]], cell=[10, 10, 10]),
                {},
                '`exploration.ensembles`: npt needs a periodic axis, which `structures.structure_0` has not',
            ),
        ],
    )
    def test_refusals(
        self, campaign_codes: dict[str, str], structures: Any, overrides: dict[str, Any], sentence: str
    ) -> None:
        """Before anything runs, in one sentence that names the field and the remedy."""
        before = orm.QueryBuilder().append(orm.ProcessNode).count()
        with pytest.raises(ValueError) as error:
            build(campaign_codes, structures, overrides=overrides)
        assert sentence in str(error.value)
        assert '\n' not in str(error.value)
        assert orm.QueryBuilder().append(orm.ProcessNode).count() == before

    def test_foundation_model(self, campaign_codes: dict[str, str]) -> None:
        """It has to know the elements of the campaign; the node itself is the input."""
        fields: dict[str, Any] = {'trainer': 'mace', 'cutoff': 6.0, 'dtype': 'float32'}
        fits, does_not = (
            PotentialData(io.BytesIO(b'large'), 'mp.model', elements=elements, **fields).store()
            for elements in (['H', 'Si'], ['H', 'Ge'])
        )
        overrides = {'training': {'foundation': fits, 'cutoff': None, 'warm_start': {'enabled': True}}}
        builder = build(campaign_codes, overrides=overrides)
        assert builder.training.foundation.uuid == fits.uuid
        assert builder.warm_start.get_dict() == {'enabled': True, 'reset_every': None}
        overrides = {'training': {'foundation': does_not.pk, 'cutoff': None}}
        with pytest.raises(ValueError, match=r'`training\.foundation`: it knows H, Ge, and there is Si in what'):
            build(campaign_codes, overrides=overrides)

    @pytest.mark.parametrize('name', ['pw', 'train', 'md', 'evaluate'])
    def test_missing_codes(self, campaign_codes: dict[str, str], name: str) -> None:
        """By the name it has in a campaign."""
        with pytest.raises(ValueError, match=rf'`codes\.{name}`: no code is given; create one'):
            build({key: label for key, label in campaign_codes.items() if key != name})
        with pytest.raises(ValueError, match=rf"`codes\.{name}`: there is no code 'gone'"):
            build({**campaign_codes, name: 'gone'})

    def test_unknown_codes_and_options(self, campaign_codes: dict[str, str]) -> None:
        """Neither is ignored."""
        with pytest.raises(ValueError, match=r"`codes\.lammps`: unknown code 'lammps'. Known: pw, train"):
            build({**campaign_codes, 'lammps': 'x'})
        with pytest.raises(ValueError, match=r"`options\.labeling`: unknown .*'labeling'. Did you mean 'labelling'"):
            build(campaign_codes, options={'labeling': {'account': 'mine'}})

    @pytest.mark.parametrize('stage', ['labelling', 'training', 'exploration', 'evaluation'])
    def test_unknown_job_options(self, campaign_codes: dict[str, str], stage: str) -> None:
        """A mistyped option of the jobs is found before the stage it is for begins."""
        with pytest.raises(ValueError, match='acount'):
            build(campaign_codes, options={stage: {'acount': 'mine'}})


class TestRound:
    """The decisions of a round, on the outputs of an evaluation made by hand."""

    @pytest.fixture
    def chain(self, campaign_codes: dict[str, str], instantiate: Callable, make_dataset: Callable) -> Any:
        """A campaign in its first round."""
        dataset = make_dataset()
        chain = instantiate(build(campaign_codes, [], dataset=dataset, overrides={'max_rounds': 2, 'patience': 1}))
        chain.initialise()
        chain.ctx.round = 1
        chain.ctx.working_on = 'evaluation'
        chain.ctx.n_unsettled = 0
        return chain

    @staticmethod
    def evaluation(counts: dict[str, int], **outputs: Any) -> Any:
        """What an evaluation that ended well leaves."""
        values = {'pool': 0, 'rejected': 0, 'rejected_as_uncertain': 0, 'above_threshold': 0, 'selected': 0, **counts}
        made = {
            'calibration': orm.Dict({}).store(),
            'metrics': orm.Dict({'validation': measured(0.1, 0.1)}).store(),
            'selection': orm.Dict({'counts': values, 'thresholds': {}}).store(),
            **outputs,
        }
        return SimpleNamespace(is_finished_ok=True, outputs=AttributeDict(made))

    def test_nothing_selected_ends_the_campaign(self, chain: Any) -> None:
        """The peer labelled an empty data set and crashed (defect 13)."""
        chain.ctx.child = self.evaluation({'pool': 10, 'rejected': 4})
        assert chain.close_round() is None
        assert chain.ctx.ended_by == 'converged' and not chain.goes_on() and not chain.has_selected()
        assert set(chain.ctx.round_pks['round_1']) == {'calibration', 'metrics', 'selection'}
        assert all(isinstance(pk, int) for pk in chain.ctx.round_pks['round_1'].values())

    @pytest.mark.parametrize(
        'counts',
        [
            {'pool': 10, 'above_threshold': 1, 'selected': 1},
            {'pool': 10, 'rejected': 10},  # nothing physical in the pool: that is no knowledge
            {'pool': 0},
            {'pool': 10, 'rejected': 3, 'rejected_as_uncertain': 3},
        ],
    )
    def test_no_convergence(self, chain: Any, counts: dict[str, int]) -> None:
        """Candidates, a pool of which nothing is left, and frames too uncertain to label."""
        chain.ctx.child = self.evaluation(counts)
        assert chain.close_round() is None
        assert chain.ctx.ended_by is None and chain.ctx.rounds_without_candidate == 0

    def test_halted_trajectories_are_no_convergence(self, chain: Any) -> None:
        """They ended where the committee does not know."""
        chain.ctx.n_unsettled = 1
        chain.ctx.child = self.evaluation({'pool': 10})
        assert chain.close_round() is None
        assert chain.ctx.ended_by is None and chain.ctx.rounds_without_candidate == 0

    def test_last_round_buys_no_labels(self, chain: Any, make_frame: Callable) -> None:
        """There is no training any more that would use them."""
        selected = PESData(frames=[make_frame(3, labelled=False)]).store()
        chain.ctx.round = 2
        chain.ctx.child = self.evaluation({'pool': 5, 'above_threshold': 1, 'selected': 1}, selected=selected)
        chain.close_round()
        assert chain.ctx.ended_by == 'max_rounds' and chain.has_selected() and not chain.goes_on()

    def test_conditions_widen(self, chain: Any) -> None:
        """Stage by stage as rounds converge; only with all of them explored does a round count."""
        chain.inputs.exploration.conditions = orm.Dict({'n_stages': 3, 'widen': 'converged'})
        found = []
        for known in (True, False, True, False, True, True):
            chain._widen(known)
            found.append((chain.ctx.stage, chain.ctx.rounds_without_candidate))
        assert found == [(1, 0), (1, 0), (2, 0), (2, 0), (2, 1), (2, 2)]
        chain.inputs.exploration.conditions = orm.Dict({'n_stages': 2, 'widen': 'rounds'})
        chain.ctx.stage = chain.ctx.rounds_without_candidate = 0
        chain._widen(False)
        assert (chain.ctx.stage, chain.ctx.rounds_without_candidate) == (1, 0)

    @pytest.mark.parametrize(
        ('warm_start', 'warm'),
        [
            ({}, [False, False, False, False]),
            ({'enabled': True}, [False, True, True, True]),
            ({'enabled': True, 'reset_every': 2}, [False, True, False, True]),
            ({'enabled': True, 'reset_every': 1}, [False, False, False, False]),
        ],
    )
    def test_warm_start(
        self,
        campaign_codes: dict[str, str],
        instantiate: Callable,
        make_dataset: Callable,
        make_committee: Callable,
        monkeypatch: pytest.MonkeyPatch,
        warm_start: dict[str, Any],
        warm: list[bool],
    ) -> None:
        """From the second round on, but for each k-th, the members of the round before are gone on with."""
        overrides = {'training': {'warm_start': warm_start}, 'max_rounds': 4}
        chain = instantiate(build(campaign_codes, [], dataset=make_dataset(), overrides=overrides))
        chain.initialise()
        submitted = []
        monkeypatch.setattr(chain, '_submit', lambda stage, label, /, **inputs: submitted.append(inputs))
        made = []
        for _ in warm:
            chain.train()
            made.append(make_committee().store())
            results = orm.Dict({'warnings': []}).store()
            outputs = AttributeDict({'committee': made[-1], 'results': results})
            chain.ctx.child = SimpleNamespace(is_finished_ok=True, outputs=outputs)
            assert chain.keep_committee() is None
        assert ['start' in inputs for inputs in submitted] == warm
        for number, inputs in enumerate(submitted):
            if 'start' in inputs:
                assert inputs['start'].pk == made[number - 1].pk
        assert chain.ctx.round_pks['round_4']['training'] == results.pk

    def test_no_warm_start_with_another_element(
        self,
        campaign_codes: dict[str, str],
        instantiate: Callable,
        make_dataset: Callable,
        make_committee: Callable,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Which the earlier members do not know."""
        overrides = {'training': {'warm_start': {'enabled': True}}}
        chain = instantiate(build(campaign_codes, [], dataset=make_dataset(), overrides=overrides))
        chain.initialise()
        submitted: list[dict[str, Any]] = []
        monkeypatch.setattr(chain, '_submit', lambda stage, label, /, **inputs: submitted.append(inputs))
        for chain.ctx.round in (0, 1):
            chain.train()
            chain._record('committee', make_committee(elements=('Ge',)).store())
        assert ['start' in inputs for inputs in submitted] == [False, False]

    def test_calibration_comes_before_exploration(
        self, chain: Any, make_committee: Callable, make_frame: Callable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of the new committee; the exploration is given it, and the evaluation goes on from its folder."""
        submitted: dict[str, Any] = {}
        monkeypatch.setattr(chain, '_submit', lambda stage, label, /, **inputs: submitted.update({label: inputs}))
        chain._record('dataset', chain.dataset)
        chain._record('committee', make_committee().store())
        assert chain.needs_calibration()
        chain.calibrate()
        assert set(submitted['calibration_1']) == {'committee', 'dataset', 'seed'}
        outputs = {
            'calibration': orm.Dict({}).store(),
            'predictions': orm.ArrayData(np.zeros(1)).store(),
            'remote_folder': orm.RemoteData(remote_path='/x', computer=orm.load_computer('localhost')).store(),
        }
        load = orm.load_node
        done = SimpleNamespace(is_finished_ok=True, pk=10**6, outputs=AttributeDict(outputs))
        monkeypatch.setattr(orm, 'load_node', lambda pk: done if pk == 10**6 else load(pk))
        chain.ctx.child = done
        assert chain.keep_calibration() is None
        chain.explore()
        given = submitted['exploration_1']
        assert given['calibration'].pk == outputs['calibration'].pk and given['predictions'].pk
        pool = PESData(frames=[make_frame(3, labelled=False)]).store()
        report = orm.Dict({'reasons': {'halted': 2, 'lost_atoms': 1, 'completed': 4}}).store()
        chain.ctx.child = SimpleNamespace(
            is_finished_ok=True, outputs=AttributeDict({'frames': pool, 'report': report})
        )
        chain.evaluate()
        assert submitted['evaluation_1']['parent_folder'].pk == outputs['remote_folder'].pk
        assert chain.ctx.n_unsettled == 3
        assert chain.ctx.round_pks['round_1']['exploration'] == report.pk

    def test_no_calibration_without_bounds(
        self, campaign_codes: dict[str, str], instantiate: Callable, make_dataset: Callable
    ) -> None:
        """Nor where they are of the deviation itself."""
        for uncertainty in ({'lower': None}, {'calibrated': False}):
            overrides = {'exploration': {'uncertainty': uncertainty}}
            chain = instantiate(build(campaign_codes, [], dataset=make_dataset(), overrides=overrides))
            assert not chain.needs_calibration()

    @pytest.mark.parametrize('same', [True, False])
    def test_same_starts(
        self,
        campaign_codes: dict[str, str],
        instantiate: Callable,
        make_dataset: Callable,
        make_frame: Callable,
        make_committee: Callable,
        monkeypatch: pytest.MonkeyPatch,
        same: bool,
    ) -> None:
        """By option trajectories of all rounds have one seed and start from one data set, so that they compare."""
        dataset = make_dataset()
        overrides = {'exploration': {'same_starts': same, 'uncertainty': {'lower': None}}}
        chain = instantiate(build(campaign_codes, [], dataset=dataset, overrides=overrides))
        chain.initialise()
        submitted = []
        monkeypatch.setattr(chain, '_submit', lambda stage, label, /, **inputs: submitted.append(inputs))
        for chain.ctx.round in (1, 2):
            chain._record('dataset', chain.dataset)
            chain._record('committee', make_committee().store())
            chain.explore()
            level = dataset.frame(0).level_of_theory
            chain.ctx.dataset_pk = dataset.extended([make_frame(9, level_of_theory=level)]).store().pk
        first, second = submitted
        assert (first['seed'].value == second['seed'].value) is same
        assert (first['structures'].uuid == second['structures'].uuid) is same

    def test_most_uncertain_frames_of_the_round_before(
        self,
        campaign_codes: dict[str, str],
        instantiate: Callable,
        make_dataset: Callable,
        make_committee: Callable,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Its scores go to the exploration where trajectories are to start from these."""
        overrides = {'exploration': {'start_from': 'uncertain', 'start_origins': [], 'uncertainty': {'lower': None}}}
        chain = instantiate(build(campaign_codes, [], dataset=make_dataset(), overrides=overrides))
        chain.initialise()
        submitted = []
        monkeypatch.setattr(chain, '_submit', lambda stage, label, /, **inputs: submitted.append(inputs))
        for chain.ctx.round in (1, 2):
            chain._record('committee', make_committee().store())
            chain.explore()
            chain._record('scores', orm.ArrayData(np.zeros(1)).store())
        assert 'scores' not in submitted[0]
        assert submitted[1]['scores'].pk == chain.ctx.round_pks['round_1']['scores']

    def test_failed_stage_is_told(self, chain: Any) -> None:
        """Its exit code names stage, round, reason and process."""
        chain.ctx.child = SimpleNamespace(is_finished_ok=False, exit_message='it broke', pk=77)
        exit_code = chain.close_round()
        assert exit_code.status == 405
        assert exit_code.message == (
            'evaluation failed in round 1: it broke (process 77); what was made before is in the outputs'
        )

    def test_partly_failed_labelling_is_kept(self, chain: Any, make_frame: Callable) -> None:
        """What was labelled is added to the data set, also where the stage ended with an error."""
        chain.ctx.working_on, chain.ctx.labelling = 'labelling', 'labelling_1'
        level = chain.dataset.frame(0).level_of_theory
        labelled = PESData(frames=[make_frame(i, level_of_theory=level) for i in (5, 6)]).store()
        report = orm.Dict({'n_failed': 1}).store()
        chain.ctx.child = SimpleNamespace(
            is_finished_ok=False,
            exit_message='x',
            pk=78,
            outputs=AttributeDict({'labelled': labelled, 'report': report}),
        )
        assert chain.keep_labels().status == 402
        assert len(chain.dataset) == 4 and chain.dataset.creator.process_label == 'extend_dataset'
        assert chain.ctx.labelling_pks == {'labelling_1': report.pk}

    def test_summary(self, chain: Any, make_committee: Callable) -> None:
        """Why it ended, and the last committee and calibration."""
        chain.ctx.child = self.evaluation({'pool': 10})
        chain._record('dataset', chain.dataset)
        chain._record('committee', make_committee().store())
        chain.close_round()
        chain.summarise()
        assert chain.outputs['results']['ended_by'] == 'converged'
        assert chain.outputs['results'].creator.process_label == 'summarise_campaign'
        assert chain.outputs['committee'].pk == chain.ctx.round_pks['round_1']['committee']
        assert chain.outputs['calibration'].pk == chain.ctx.round_pks['round_1']['calibration']
