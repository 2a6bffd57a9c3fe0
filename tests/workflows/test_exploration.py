"""Trajectories and explorers: settings, start frames, what each job is given, what goes on, and what is told of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from aiida import orm
from aiida.common import AttributeDict

from aiida_alpot.calculations.explore import ExploreCalculation
from aiida_alpot.calculations.md import MDCalculation
from aiida_alpot.campaign.environment import Environment
from aiida_alpot.data.pes import PESData
from aiida_alpot.worker.acquisition.calibration import from_dict, linear
from aiida_alpot.worker.seeds import derive_seed
from aiida_alpot.workflows.exploration import ExplorationWorkChain
from aiida_alpot.workflows.exploration_jobs import EXPLORE, MAX_IDLE, MD, add_part, following_job, rows_of
from aiida_alpot.workflows.exploration_settings import Bounds, expected_of_held_out, in_words, named_frames

BASE = 10**6
"""Beyond the identifiers of all nodes of a test."""
UNBOUNDED = {'uncertainty': {'lower': None}}


def build(codes: dict[str, str], options: dict[str, Any] | None = None, **overrides: Any) -> Any:
    """Builder of the fast protocol."""
    return ExplorationWorkChain.get_builder_from_protocol(
        codes['md'], seed=5, protocol='fast', overrides=overrides, options=options, explore_code=codes.get('explore')
    )


def calibration(slope: float = 2.0, n: int = 100) -> dict[str, Any]:
    """Of forces, with errors about so much times the deviations."""
    rng = np.random.default_rng(4)
    deviation = rng.uniform(0.02, 0.5, n)
    return linear(deviation, slope * deviation * rng.uniform(0.5, 1.5, n), np.arange(n)).as_dict()


def predictions(deviation: list[float], split: str = 'validation') -> dict[str, np.ndarray]:
    """Of frames with these largest deviations."""
    return {
        'max_force_deviation': np.array(deviation),
        'split': np.array([split] * len(deviation)),
        'isolated': np.zeros(len(deviation), dtype=bool),
        'origin': np.array(['rattle'] * len(deviation)),
    }


@pytest.fixture
def explore_code(environment: Environment, campaign_codes: dict[str, str]) -> dict[str, str]:
    """The codes of a campaign with that of alpot-explore."""
    return {**campaign_codes, 'explore': environment.codes['alpot-explore']}


@pytest.fixture
def make_chain(
    campaign_codes: dict[str, str], make_frame: Callable, make_committee: Callable, instantiate: Callable
) -> Callable[..., ExplorationWorkChain]:
    """Factory of work chains that have chosen nothing yet; frames of 1 to 8 atoms, the even ones supercells."""

    def make(
        options: dict[str, Any] | None = None,
        pbc: Any = True,
        codes: Any = None,
        inputs: dict[str, Any] | None = None,
        elements: tuple[str, ...] = ('C', 'Si', 'Ti'),
        **overrides: Any,
    ) -> ExplorationWorkChain:
        builder = build(codes or campaign_codes, options, **{**UNBOUNDED, **overrides})
        builder.structures = PESData(
            frames=[
                make_frame(n, n_atoms=n, pbc=[pbc] * 3, origin='rattle' if n % 2 else 'supercell') for n in range(1, 9)
            ]
        )
        builder.committee = make_committee(elements=elements)
        for name, value in (inputs or {}).items():
            builder[name] = value
        return instantiate(builder)

    return make


class TestSettings:
    """What a builder is given."""

    def test_builder(self, campaign_codes: dict[str, str]) -> None:
        """What belongs to the chain stays there; the rest goes to each trajectory."""
        builder = build(
            campaign_codes, temperatures=[300, 500.0], n_replicas=2, n_steps=50, options={'max_wallclock_seconds': 100}
        )
        assert builder.conditions['temperatures'] == [300, 500.0] and builder.conditions['n_replicas'] == 2
        assert builder.seed.value == 5
        parameters = builder.parameters.get_dict()
        assert parameters['n_steps'] == 50 and parameters['device'] == 'cpu' and parameters['uncertainty']['lower'] == 3
        assert parameters['uncertainty']['tolerance'] == 0.15
        assert not {'temperatures', 'n_replicas', 'start_origins', 'options', 'max_concurrent', 'keep'} & set(
            parameters
        )
        assert builder.md.metadata.options['max_wallclock_seconds'] == 100

    @pytest.mark.parametrize('protocol', ['fast', 'balanced', 'stringent'])
    def test_defaults_pass_their_own_validator(self, campaign_codes: dict[str, str], protocol: str) -> None:
        """The peer's did not (defect 21)."""
        assert ExplorationWorkChain.get_builder_from_protocol(campaign_codes['md'], protocol=protocol).md.code.label

    def test_every_option_of_the_dynamics_is_in_the_protocol(self) -> None:
        """None can only be reached by hand, and none of the protocol is unknown to the dynamics."""
        from dataclasses import fields

        from aiida_alpot.worker.md.settings import MDSettings
        from aiida_alpot.workflows.exploration_settings import CHAIN, CONDITIONS, STARTS

        inputs = ExplorationWorkChain.get_protocol_inputs()
        known = {field.name for field in fields(MDSettings)}
        assert known - set(inputs) == {'ensemble', 'temperature', 'pressure', 'seed', 'max_deviation', 'max_seconds'}
        assert set(inputs) - known == {*CONDITIONS, *STARTS, *CHAIN, 'device', 'dtype'} - known

    @pytest.mark.parametrize(
        ('overrides', 'sentence'),
        [
            ({'temperatures': []}, '`exploration.temperatures` is []'),
            ({'temperatures': 300.0}, '`exploration.temperatures` is 300.0, expected a list of numbers'),
            ({'temperatures': [300.0, -5.0]}, '`exploration.temperatures` is -5.0, expected a number in (0.0, inf)'),
            ({'temperatures': ['hot']}, "`exploration.temperatures` is 'hot', expected a number"),
            ({'temperatures': [float('nan')]}, '`exploration.temperatures` is nan'),
            ({'temperatures': [30000.0]}, '`exploration.max_temperature` is 20000.0: give more than'),
            ({'ensembles': ['npx']}, "`exploration.ensembles`: unknown value 'npx'. Did you mean 'npt'?"),
            ({'ensemble': 'npt'}, 'unknown option `exploration.ensemble`: did you mean `ensembles`?'),
            ({'ensembles': ['nvt'], 'pressures': [1.0]}, '`exploration.pressures` is [1.0]: there is no barostat'),
            ({'mode': 'ranges'}, '`exploration.n_conditions` is missing'),
            ({'n_stages': 0}, '`exploration.n_stages` is 0'),
            ({'widen': 'always'}, "'always'"),
            ({'pressure_axes': ['a']}, "`exploration.pressure_axes` is ['a']: give axes among x, y, z"),
            ({'pressure_axes': ['x'], 'ensembles': ['nvt']}, '`exploration.pressure_axes` has no effect'),
            ({'timestep': -1.0}, '`exploration.timestep` is -1.0: give femtoseconds in (0, 5]'),
            ({'timestep': 7.0}, 'or say `allow_long_timestep`'),
            ({'n_steps': 'many'}, "`exploration.n_steps` is 'many': give a number"),
            ({'n_steps': 0}, '`exploration.n_steps` is 0: give at least 1'),
            ({'sample_every': 1000}, '`exploration.sample_every` is larger than `n_steps`'),
            ({'restart_every': 0}, '`exploration.restart_every` is 0'),
            ({'n_replicas': 0}, '`exploration.n_replicas` is 0, expected a whole number at least 1'),
            ({'runs_per_job': 0}, '`exploration.runs_per_job` is 0'),
            ({'max_restarts': -1}, '`exploration.max_restarts` is -1'),
            ({'same_starts': 'yes'}, "`exploration.same_starts` is 'yes'"),
            ({'start_min_atoms': 'two'}, "`exploration.start_min_atoms` is 'two'"),
            ({'start_frames': ['xyz']}, "`exploration.start_frames` is ['xyz']: give indices"),
            ({'start_frames': [0], 'start_from': 'uncertain'}, '`exploration.start_from` is uncertain'),
            ({'start_from': 'worst'}, "'worst'"),
            ({'barostat': 'any'}, "`exploration.barostat` is 'any'"),
            ({'thermostat': 'csvr', 'ensembles': ['nve']}, '`exploration.thermostat` is'),
            ({'swaps': {'elements': [['Cu', 'Cu']]}}, '`exploration.swaps.elements` is'),
            ({'dispersion': {'method': 'd4'}}, 'exploration'),
            ({'uncertainty': {'lower': -1.0}}, '`exploration.uncertainty.lower` is -1.0'),
            ({'uncertainty': {'upper': 2.0}}, '`exploration.uncertainty.upper` is 2.0: give more than `lower`, 3.0'),
            ({'uncertainty': {'unit': 'eV'}}, "unknown value of `unit`: 'eV'"),
            ({'uncertainty': {'on_crossing': 'stop'}}, "unknown value of `on_crossing`: 'stop'"),
            ({'uncertainty': {'at_least_held_out': 2}}, '`exploration.uncertainty.at_least_held_out` is 2'),
            ({'uncertainty': {'lwer': 2}}, 'unknown option `exploration.uncertainty.lwer`: did you mean `lower`?'),
            ({'uncertainty': {'before_every': 7, 'keep_before': 1}}, '`exploration.uncertainty.before_every` is 7'),
            ({'keep': {'min_distance': -1}}, '`exploration.keep.min_distance` is -1'),
            ({'explorers': {'explorer': 'neb'}}, '`exploration.explorers`: must be a list'),
            ({'explorers': [{'explorer': 'nbe'}]}, "`exploration.explorers.0`: unknown explorer 'nbe'"),
            ({'explorers': [{'explorer': 'neb'}]}, '`neb` takes 2 start structures that belong together'),
            ({'explorers': [{'explorer': 'relaxation', 'n': 2}]}, "unknown key 'n'"),
            ({'explorers': [{'explorer': 'relaxation', 'settings': {'fmx': 1}}]}, "'fmx'"),
            ({'device': 'gpu'}, '`exploration.device`'),
            ({'dtype': 'float16'}, 'float16'),
            ({'temperature': 300.0}, 'unknown option `exploration.temperature`: did you mean `temperatures`?'),
            ({'max_concurrent': 0}, '`exploration.max_concurrent`: must be'),
        ],
    )
    def test_refusals(self, campaign_codes: dict[str, str], overrides: dict[str, Any], sentence: str) -> None:
        """Before anything runs, by the name of the field."""
        with pytest.raises(ValueError) as error:
            build(campaign_codes, **overrides)
        assert sentence in str(error.value) and 'exploration' in str(error.value)

    def test_explorers_need_their_code(self, campaign_codes: dict[str, str]) -> None:
        """And only then."""
        with pytest.raises(ValueError, match=r'`codes\.explore`: no code is given'):
            build(campaign_codes, explorers=[{'explorer': 'relaxation'}])

    def test_names(self) -> None:
        assert in_words(ValueError('`temperature` is 3: bad')) == '`exploration.temperatures` is 3: bad'
        assert in_words(ValueError('`schedule.mode` is x')) == '`exploration.mode` is x'
        assert in_words(ValueError('bad.'), 'keep') == '`exploration.keep`: bad'
        assert in_words(ValueError('the sky')) == '`exploration`: the sky'

    def test_ports_refuse_what_the_builder_refuses(self, make_chain: Callable) -> None:
        """A chain that is built by hand, or has bounds for which nothing is known."""
        with pytest.raises(ValueError, match='`calibration` is missing'):
            make_chain(uncertainty={'lower': 3.0})
        with pytest.raises(ValueError, match='needs `predictions`'):
            make_chain(uncertainty={'lower': 3.0}, inputs={'calibration': orm.Dict({'forces': calibration()})})
        make_chain(uncertainty={'lower': 3.0, 'calibrated': False})
        with pytest.raises(ValueError, match=r'`md\.active_set`'):
            make_chain(uncertainty={'lower': None, 'grade_lower': 2.0})
        with pytest.raises(ValueError, match='`explore_code` is missing'):
            make_chain(inputs={'explorers': orm.List([{'explorer': 'relaxation'}])})
        with pytest.raises(ValueError, match='n_stp'):
            make_chain(inputs={'parameters': orm.Dict({'n_stp': 3})})


class TestBounds:
    """From what users write to eV/A."""

    def test_multiples_of_the_tolerance(self) -> None:
        values = {'lower': 3.0, 'upper': 20.0, 'unit': 'tolerance', 'on_crossing': 'halt', 'keep_before': 2}
        bounds = Bounds.of({**values, 'tolerance': 0.1})
        assert bounds is not None and bounds.needs_calibration
        made = bounds.absolute()
        assert (made['lower'], made['upper']) == pytest.approx((0.3, 2.0))
        assert made['on_crossing'] == 'halt'
        assert not {'unit', 'tolerance', 'calibrated', 'at_least_held_out'} & set(made)
        without = Bounds.of(values)
        assert without is not None
        with pytest.raises(ValueError, match=r'give `uncertainty\.tolerance`'):
            without.absolute()

    def test_absolute_is_the_default_unit(self) -> None:
        bounds = Bounds.of({'lower': 0.4, 'calibrated': False, 'tolerance': 9.0})
        assert bounds is not None and not bounds.needs_calibration
        assert bounds.absolute()['lower'] == 0.4 and bounds.absolute()['upper'] is None

    def test_nothing_is_bounded(self) -> None:
        assert Bounds.of(None) is None and Bounds.of({'lower': None, 'upper': 20.0}) is None
        grade = Bounds.of({'lower': None, 'upper': 20.0, 'grade_lower': 2.0})
        assert grade is not None and not grade.needs_calibration and 'lower' not in grade.absolute()

    def test_not_below_what_is_expected_of_held_out_frames(self) -> None:
        """A first committee would halt at every start; both bounds are raised by one factor, and never lowered."""
        bounds = Bounds.of({'lower': 3.0, 'upper': 12.0, 'unit': 'tolerance', 'tolerance': 0.1})
        assert bounds is not None
        made = bounds.absolute(held_out=0.9)
        assert (made['lower'], made['upper']) == pytest.approx((0.9, 3.6))
        assert bounds.absolute(held_out=0.2)['lower'] == pytest.approx(0.3)

    def test_quantile_of_held_out_frames(self) -> None:
        """Expected errors of validation frames: not those trained on, nor isolated atoms, nor symmetric ones."""
        fitted = calibration()
        arrays = predictions([0.1, 0.2, 0.3, 0.0, 9.0])
        arrays['isolated'][4] = True
        assert expected_of_held_out(fitted, arrays, 0.5) == pytest.approx(0.2 * fitted['slope'])
        assert expected_of_held_out(fitted, arrays, 1.0) == pytest.approx(0.3 * fitted['slope'])
        assert expected_of_held_out(fitted, predictions([0.1], 'train'), 0.5) is None

    def test_in_a_chain(self, make_chain: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
        """Calibrated, raised and told; the calibration goes to the jobs."""
        said: list[str] = []
        monkeypatch.setattr(ExplorationWorkChain, 'report', lambda self, text, *_: said.append(text))
        fitted = calibration(n=5)
        arrays = orm.ArrayData()
        for name, array in predictions([0.4] * 4).items():
            arrays.set_array(name, array)
        inputs = {'calibration': orm.Dict({'forces': fitted}), 'predictions': arrays}
        chain = make_chain(start_origins=[], uncertainty={'lower': 3.0, 'upper': 9.0}, inputs=inputs)
        assert chain.choose_starts() is None
        expected = from_dict(fitted).expected_error(np.array([0.4]))[0]
        assert chain.ctx.bounds['lower'] == pytest.approx(expected) and expected > 0.45
        assert chain.ctx.bounds['upper'] == pytest.approx(3 * chain.ctx.bounds['lower'])
        assert any('is not trusted (5 held-out frames' in text for text in said)
        _, job = chain.build_task(0)
        assert job['calibration'].uuid == chain.inputs.calibration.uuid
        assert job['parameters']['uncertainty']['upper'] == pytest.approx(chain.ctx.bounds['upper'])
        chain = make_chain(start_origins=[], uncertainty={'lower': 3.0, 'calibrated': False})
        chain.choose_starts()
        assert chain.ctx.bounds['lower'] == pytest.approx(0.45) and 'calibration' not in chain.build_task(0)[1]
        assert any('not calibrated' in text for text in said)


class TestStarts:
    """Where trajectories start."""

    def test_eligible_frames(self, make_chain: Callable) -> None:
        """Of the origins asked for, and large enough; each condition as often as there are replicas."""
        chain = make_chain(start_origins=['supercell'], start_min_atoms=4, temperatures=[300.0, 600.0], n_replicas=2)
        assert chain.choose_starts() is None
        assert chain.ctx.n_tasks == 4
        assert [t for t, _, _ in chain.ctx.conditions] == [300.0, 300.0, 600.0, 600.0]
        # Frames 3, 5 and 7 have 4, 6 and 8 atoms; there are fewer than trajectories.
        assert set(chain.ctx.starts) == {3, 5, 7}

    def test_each_start_once_where_there_are_enough(self, make_chain: Callable) -> None:
        """No start is drawn twice before all are."""
        chain = make_chain(start_origins=[], temperatures=[300.0], n_replicas=7)
        assert chain.choose_starts() is None
        assert sorted(chain.ctx.starts) == [1, 2, 3, 4, 5, 6, 7]

    def test_the_seed_decides(self, make_chain: Callable) -> None:
        """The same seed, the same starts."""
        chains = [make_chain(start_origins=[], n_replicas=4) for _ in range(2)]
        for chain in chains:
            chain.choose_starts()
        assert chains[0].ctx.starts == chains[1].ctx.starts

    @pytest.mark.parametrize(
        'overrides',
        [
            {'start_origins': ['surface']},
            {'start_origins': ['supercell'], 'start_min_atoms': 9},
            {'start_origins': [], 'min_thickness': 30.0},
        ],
    )
    def test_no_start(self, make_chain: Callable, overrides: dict[str, Any]) -> None:
        """The message names the settings that can be changed."""
        exit_code = make_chain(**overrides).choose_starts()
        assert exit_code.status == 311
        assert 'change `start_origins`, `start_min_atoms` or `min_thickness`' in exit_code.message

    def test_single_atoms_and_thin_cells_are_no_start(
        self, campaign_codes: dict[str, str], make_frame: Callable, make_committee: Callable, instantiate: Callable
    ) -> None:
        """They are left out, whatever `start_min_atoms` says: LAMMPS or the potential would be wrong."""
        builder = build(campaign_codes, **UNBOUNDED, start_origins=[], start_min_atoms=1, n_replicas=3)
        frames = [make_frame(0, n_atoms=1), make_frame(1, n_atoms=2), make_frame(2, cell=np.diag([9.0, 9.0, 2.0]))]
        builder.structures = PESData(frames=frames)
        builder.committee = make_committee(elements=('C', 'Si', 'Ti'))
        chain = instantiate(builder)
        assert chain.choose_starts() is None
        assert set(chain.ctx.starts) == {1}

    def test_npt_needs_periodicity(self, make_chain: Callable) -> None:
        """A molecule has no pressure; nvt takes it."""
        exit_code = make_chain(pbc=False, start_origins=[]).choose_starts()
        assert exit_code.status == 312 and 'not periodic along any axis: use nvt' in exit_code.message
        assert make_chain(pbc=False, start_origins=[], ensembles=['nvt']).choose_starts() is None

    def test_unknown_elements(self, make_chain: Callable) -> None:
        exit_code = make_chain(start_origins=[], elements=('C', 'Si'), n_replicas=4).choose_starts()
        assert exit_code.status == 312 and 'Ti, which the committee, of C, Si, does not know' in exit_code.message

    def test_listed_frames(self, make_chain: Callable) -> None:
        """By index and by identity, in turn, also those that would not be drawn."""
        chain = make_chain()
        frame_id = chain.inputs.structures.frame(4).frame_id
        chain = make_chain(start_frames=[6, frame_id, frame_id[:10], 2], temperatures=[300.0], n_replicas=6)
        assert chain.choose_starts() is None
        assert chain.ctx.starts == [6, 4, 4, 2, 6, 4]
        assert make_chain(start_frames=[0]).choose_starts().status == 312
        exit_code = make_chain(start_frames=[99]).choose_starts()
        assert exit_code.status == 312 and 'the data set has 8 frames' in exit_code.message
        with pytest.raises(ValueError, match='no frame_id of the data set begins with it'):
            named_frames(chain.inputs.structures, ['f' * 64])

    def test_most_uncertain_frames_first(self, make_chain: Callable) -> None:
        """By the scores of an evaluation; frames that it does not know come after them."""
        structures = make_chain().inputs.structures
        scores = orm.ArrayData()
        scores.set_array('frame_id', np.array([structures.frame(i).frame_id for i in (2, 5, 6)], dtype='S64'))
        scores.set_array('expected_force_error', np.array([0.3, 0.9, np.nan]))
        chain = make_chain(start_from='uncertain', start_origins=[], n_replicas=1, inputs={'scores': scores})
        assert chain.choose_starts() is None
        assert chain.ctx.starts[:2] == [5, 2] and len(chain.ctx.starts) == 3

    def test_frames_that_halted_before(
        self, campaign_codes: dict[str, str], make_frame: Callable, make_committee: Callable, instantiate: Callable
    ) -> None:
        """Without scores the expected error that a frame was sampled with counts."""
        builder = build(campaign_codes, **UNBOUNDED, start_from='uncertain', start_origins=[], temperatures=[300.0])
        errors = [None, 0.2, 0.8]
        metadata = [{} if error is None else {'expected_force_error': error} for error in errors]
        builder.structures = PESData(frames=[make_frame(i, metadata=values) for i, values in enumerate(metadata)])
        builder.committee = make_committee(elements=('C', 'Si', 'Ti'))
        chain = instantiate(builder)
        chain.choose_starts()
        assert chain.ctx.starts == [2]


class TestConditions:
    """Grids, ranges and stages."""

    def test_grid(self, make_chain: Callable) -> None:
        """Options of a thermostat or a barostat go where there is one."""
        chain = make_chain(
            start_origins=['supercell'],
            temperatures=[300.0, 900.0],
            pressures=[0.0, 5.0],
            ensembles=['nve', 'npt'],
            thermostat='csvr',
            barostat_damping=500.0,
            pressure_axes=['x', 'z'],
            runs_per_job=10,
        )
        assert chain.choose_starts() is None
        assert sorted(map(tuple, chain.ctx.conditions)) == [
            (300.0, 0.0, 'npt'),
            (300.0, 0.0, 'nve'),
            (300.0, 5.0, 'npt'),
            (900.0, 0.0, 'npt'),
            (900.0, 0.0, 'nve'),
            (900.0, 5.0, 'npt'),
        ]
        runs = chain.build_task(0)[1]['runs'].get_list()
        settings = {(run['settings']['ensemble'], run['settings']['temperature']): run['settings'] for run in runs}
        assert settings['nve', 300.0]['thermostat'] == 'nose_hoover'
        assert settings['nve', 300.0]['barostat_damping'] is None
        assert settings['npt', 900.0] == {'ensemble': 'npt', 'temperature': 900.0, 'pressure': {'x': 5.0, 'z': 5.0}}

    def test_stages(self, make_chain: Callable) -> None:
        """What the campaign has come to decides how wide they are."""
        widening = {'temperatures': [300.0, 600.0, 900.0], 'n_stages': 3, 'start_origins': []}
        for stage, expected in ((0, [300.0]), (1, [300.0, 600.0]), (7, [300.0, 600.0, 900.0])):
            chain = make_chain(inputs={'stage': orm.Int(stage)}, **widening)
            chain.choose_starts()
            assert [t for t, _, _ in chain.ctx.conditions] == expected

    def test_ranges(self, make_chain: Callable) -> None:
        chain = make_chain(temperatures=[300.0, 900.0], mode='ranges', n_conditions=5, start_origins=[])
        chain.choose_starts()
        found = [t for t, _, _ in chain.ctx.conditions]
        assert len(found) == 5 and all(300 <= t <= 900 for t in found) and len(set(found)) == 5


class TestJobs:
    """What a job is given."""

    def test_inputs(self, make_chain: Callable) -> None:
        """One node of settings for all, a lineage for each trajectory, and a time limit below the walltime."""
        chain = make_chain(
            options={'max_wallclock_seconds': 1000}, start_origins=['supercell'], temperatures=[450.0, 500.0]
        )
        chain.choose_starts()
        process, inputs = chain.build_task(1)
        assert process is MDCalculation
        parameters = inputs['parameters'].get_dict()
        assert parameters['max_seconds'] == 900 and parameters['uncertainty'] is None
        (run,) = inputs['runs'].get_list()
        assert run['settings']['temperature'] == 500.0 and run['lineage'] == 'md:5:1'
        assert run['seed'] == derive_seed(5, 'trajectory', 1)
        assert inputs['parameters'].pk == chain.build_task(0)[1]['parameters'].pk

    def test_no_walltime_no_limit(self, make_chain: Callable) -> None:
        """A job without walltime is not stopped."""
        chain = make_chain(options={'max_wallclock_seconds': None}, start_origins=[])
        chain.choose_starts()
        assert chain.build_task(0)[1]['parameters']['max_seconds'] == 0

    def test_jobs_are_accepted(self, make_chain: Callable, instantiate: Callable) -> None:
        """By the calculation."""
        chain = make_chain(start_origins=[], runs_per_job=2)
        chain.choose_starts()
        process, inputs = chain.build_task(0)
        assert len(instantiate(process, **inputs).inputs.runs) == 2

    def test_several_runs_a_job(self, make_chain: Callable) -> None:
        chain = make_chain(start_origins=[], n_replicas=5, temperatures=[300.0], runs_per_job=2)
        chain.choose_starts()
        assert [job['runs'] for job in chain.ctx.jobs] == [[0, 1], [2, 3], [4]] and chain.ctx.n_tasks == 3
        runs = [run for index in range(3) for run in chain.build_task(index)[1]['runs'].get_list()]
        assert len({run['seed'] for run in runs}) == len({run['lineage'] for run in runs}) == 5

    def test_explorers(self, make_chain: Callable, explore_code: dict[str, str], instantiate: Callable) -> None:
        """Their own jobs, with starts like those of trajectories or the ones that are listed."""
        explorers = [
            {'explorer': 'relaxation', 'n_runs': 2, 'limits': {'max_force': 20.0}},
            {'explorer': 'random_search', 'settings': {'composition': {'Si': 4}, 'volume': [15.0, 25.0]}},
            {'explorer': 'relaxation', 'start_frames': [3, 4]},
        ]
        bounds = {'lower': 3.0, 'calibrated': False, 'on_crossing': 'rewind'}
        chain = make_chain(
            codes=explore_code,
            explorers=explorers,
            start_origins=[],
            n_replicas=1,
            temperatures=[300.0],
            uncertainty=bounds,
        )
        assert chain.choose_starts() is None
        assert [job['kind'] for job in chain.ctx.jobs] == [MD, EXPLORE, EXPLORE, EXPLORE]
        drawn, none, listed = (job['rows'] for job in chain.ctx.jobs[1:])
        assert len(drawn) == 2 and drawn[0] != drawn[1] and none == [[]] and listed == [[3], [4]]
        assert [chain.ctx.starts[0]] not in drawn
        process, inputs = chain.build_task(1)
        assert process is ExploreCalculation
        parameters = inputs['parameters'].get_dict()
        assert parameters['uncertainty'] == {'lower': 0.45, 'upper': 3.0, 'on_crossing': 'halt'}
        assert parameters['limits'] == {'max_force': 20.0} and parameters['max_seconds'] == 3240
        first, second = inputs['runs'].get_list()
        assert (first['lineage'], second['lineage']) == ('relaxation0:5:0', 'relaxation0:5:1')
        assert first['seed'] != second['seed'] and first['origin'] == 'relaxation'
        for index in range(1, 4):
            process, inputs = chain.build_task(index)
            assert instantiate(process, **inputs).inputs.metadata.options.parser_name == 'alpot.explore'

    def test_rows(self, make_chain: Callable) -> None:
        """Frames are used again only where there are no others."""
        structures = make_chain().inputs.structures
        drawn = [5, 6, 7]
        assert rows_of(structures, {'n_runs': 2}, 1, drawn) == [[5], [6]] and drawn == [7]
        assert rows_of(structures, {'n_runs': 2}, 1, drawn) == [[7], [7]]
        assert rows_of(structures, {'start_frames': [[0, 1]], 'n_runs': 2}, 2, drawn) == [[0, 1], [0, 1]]


def ended(status: int | None, *runs: dict[str, Any], finished: bool = True, pk: int = 77) -> Any:
    """A job that ended so."""
    outputs = {'results': orm.Dict({'runs': list(runs)})} if runs else {}
    return SimpleNamespace(
        is_finished=finished,
        is_finished_ok=finished and status == 0,
        is_terminated=True,
        exit_status=status,
        exit_message='it ended',
        outputs=AttributeDict(outputs),
        pk=pk,
    )


JOB = {'kind': MD, 'runs': [4, 5, 6], 'parent': None, 'part': 0, 'idle': 0}
DONE, TIMED_OUT = {'reason': 'completed', 'n_steps_done': 9}, {'reason': 'walltime', 'n_steps_done': 5}
NOTHING = {'reason': 'not_started', 'n_steps_done': 0}


@pytest.mark.usefixtures('aiida_profile')
class TestGoingOn:
    """Jobs that follow those that were interrupted."""

    def test_what_is_left(self) -> None:
        """Of several runs those that can go on; each knows its folder in the earlier job."""
        following = following_job(JOB, ended(312, DONE, TIMED_OUT, NOTHING))
        assert following == {**JOB, 'runs': [5, 6], 'earlier': [1, 2], 'parent': 77, 'part': 1}
        again = following_job(following, ended(301, {'reason': 'killed', 'n_steps_done': 3}, NOTHING, pk=78))
        assert again == {**JOB, 'runs': [5, 6], 'earlier': [0, 1], 'parent': 78, 'part': 2}

    @pytest.mark.parametrize(
        'child',
        [
            lambda: ended(0, DONE, DONE, {'reason': 'halted'}),
            lambda: ended(320, DONE, {'reason': 'potential_error'}, DONE),
            lambda: ended(302),
            lambda: ended(302, *3 * [{'reason': 'bad_input'}]),
            lambda: ended(None, finished=False),
        ],
    )
    def test_what_does_not(self, child: Callable) -> None:
        """What is done, failed for good or was refused, and jobs that a person killed or an exception ended."""
        assert following_job(JOB, child()) is None

    def test_no_use(self) -> None:
        """A job that came to nothing may have had bad luck once, not twice."""
        job: Any = JOB
        for idle in range(1, MAX_IDLE):
            job = following_job(job, ended(301))
            assert job is not None and job['idle'] == idle and job['runs'] == [4, 5, 6]
        assert following_job(job, ended(301)) is None
        assert following_job(job, ended(312, TIMED_OUT, NOTHING, NOTHING))['idle'] == 0

    def test_plumed_cannot_go_on(self) -> None:
        """But what has not begun can begin."""
        following = following_job(JOB, ended(312, DONE, TIMED_OUT, NOTHING), has_plumed=True)
        assert following is not None and following['runs'] == [6]
        assert following_job(JOB, ended(312, DONE, DONE, TIMED_OUT), has_plumed=True) is None

    def test_explorers_go_on_as_a_whole(self) -> None:
        job = {'kind': EXPLORE, 'number': 0, 'rows': [[1], [2]], 'parent': None, 'part': 0, 'idle': 0}
        child = ended(312, {'reason': 'completed', 'n_frames': 3}, {'reason': 'walltime', 'n_frames': 0})
        assert following_job(job, child) == {**job, 'parent': 77, 'part': 1}
        assert following_job(job, ended(311, {'reason': 'exploded'}, {'reason': 'halted'})) is None

    def test_a_chain_goes_on(
        self, make_chain: Callable, monkeypatch: pytest.MonkeyPatch, aiida_localhost: orm.Computer
    ) -> None:
        """One job more, from the folder of the first, as often as `max_restarts` allows."""
        chain = make_chain(
            start_origins=[],
            n_replicas=2,
            temperatures=[300.0],
            max_restarts=2,
            bias={'temperature': 50.0, 'cap': 500.0},
        )
        chain.choose_starts()
        folder = orm.RemoteData(remote_path='/x', computer=orm.load_computer('localhost')).store()
        bias = {'tau': 0.5, 'spread': 0.1}
        children = {pk: ended(312, {**TIMED_OUT, 'bias': bias}, pk=pk) for pk in range(BASE + 1, BASE + 9)}
        for child in children.values():
            child.outputs['remote_folder'] = folder
        children[BASE + 1] = ended(0, DONE, pk=BASE + 1)
        load = orm.load_node
        monkeypatch.setattr(orm, 'load_node', lambda pk: children.get(pk) or load(pk))
        chain.ctx.child_pks = [BASE + 1, BASE + 2]
        chain.continue_interrupted()
        chain.continue_interrupted()
        assert chain.ctx.n_tasks == 3
        process, inputs = chain.build_task(2)
        assert process is MDCalculation and inputs['parent_folder'].pk == folder.pk
        (run,) = inputs['runs'].get_list()
        assert (run['earlier'], run['lineage'], run['bias']) == ('run_0000', 'md:5:1', bias)
        for pk in (3, 4):
            chain.ctx.child_pks.append(BASE + pk)
            chain.continue_interrupted()
        assert chain.ctx.n_tasks == 4  # the first and two more of the same


@pytest.mark.usefixtures('aiida_profile')
class TestAccount:
    """What is told of trajectories."""

    def test_parts_add_up(self) -> None:
        row: dict[str, Any] = {'lineage': 'md:1:0', 'restarts': 0, 'pks': []}
        first = {'reason': 'walltime', 'message': 'a', 'last_step': 50, 'n_steps_done': 50, 'n_junk': 1, 'seconds': 2.0}
        second = {'reason': 'halted', 'message': 'b', 'last_step': 70, 'n_steps_done': 30, 'n_junk': 2, 'seconds': 1.0}
        add_part(row, 0, 7, {**first, 'highest_expected_force_error': 0.5})
        add_part(row, 1, 9, {**second, 'highest_expected_force_error': None})
        assert row == {
            'lineage': 'md:1:0',
            'restarts': 1,
            'pks': [7, 9],
            'reason': 'halted',
            'message': 'b',
            'n_steps_done': 70,
            'n_junk': 3,
            'n_rewinds': 0,
            'seconds': 3.0,
            'max_expected_error': 0.5,
        }
        add_part(row, 2, 10, {'message': 'nothing is known'})
        assert row['reason'] == 'not_started' and row['n_steps_done'] == 70
        assert json.dumps(row)

    def test_collect(self, make_chain: Callable, make_frame: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
        """One account of all, and no frame that is known, twice there or too close to another."""
        chain = make_chain(start_origins=[], n_replicas=2, temperatures=[300.0], keep={'min_steps': 15})
        chain.choose_starts()
        known = chain.inputs.structures.frame(3)

        def sampled(seed: int, index: int, step: int) -> Any:
            return make_frame(
                seed, labelled=False, origin='md', lineage=f'md:5:{index}', metadata={'step': step, 'why': 'interval'}
            )

        frames = [
            [
                sampled(101, 0, 10),
                sampled(102, 0, 20),
                sampled(103, 0, 40),
                known.replace(lineage='md:5:0', origin='md').unlabelled(),
            ],
            [sampled(101, 1, 10)],
        ]
        children = {
            BASE + i + 1: ended(
                0, {'reason': reason, 'message': '', 'n_steps_done': 40, 'last_step': 40}, pk=BASE + i + 1
            )
            for i, reason in enumerate(('halted', 'completed'))
        }
        for child, own in zip(children.values(), frames, strict=True):
            child.outputs['frames'] = PESData(frames=own).store()
        load = orm.load_node
        monkeypatch.setattr(orm, 'load_node', lambda pk: children.get(pk) or load(pk))
        chain.ctx.child_pks = [BASE + 1, BASE + 2]
        assert chain.collect() is None
        report = chain.outputs['report'].get_dict()
        assert report['reasons'] == {'halted': 1, 'completed': 1} and report['n_trajectories'] == 2
        assert report['counts'] == {
            'n_sampled': 5,
            'n_repeated': 1,
            'n_known': 1,
            'n_correlated': 1,
            'n_kept': 2,
            'n_uncertain': 0,
        }
        first, second = report['trajectories']
        assert (first['temperature'], first['ensemble'], first['reason'], first['n_kept']) == (
            300.0,
            'npt',
            'halted',
            2,
        )
        assert (second['n_kept'], second['n_repeated'], second['start']) == (0, 1, chain.ctx.starts[1])
        assert chain.outputs['frames'].creator.process_label == 'collect_frames'
        assert [metadata.metadata['step'] for metadata in chain.outputs['frames']] == [10, 40]

    def test_every_run_failed(self, make_chain: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
        """An exit code that says so, and the account (peer defect 17: the chain raised)."""
        chain = make_chain(start_origins=[], n_replicas=2, temperatures=[300.0], max_restarts=0)
        chain.choose_starts()
        children = {
            BASE + 1: ended(323, {'reason': 'lost_atoms', 'message': 'gone'}, pk=BASE + 1),
            BASE + 2: ended(None, finished=False, pk=BASE + 2),
        }
        load = orm.load_node
        monkeypatch.setattr(orm, 'load_node', lambda pk: children.get(pk) or load(pk))
        chain.ctx.child_pks = [BASE + 1, BASE + 2]
        exit_code = chain.collect()
        assert exit_code.status == 310 and 'none of 2 trajectories' in exit_code.message
        assert chain.outputs['report']['reasons'] == {'lost_atoms': 1, 'not_started': 1}
        assert 'frames' not in chain.outputs
