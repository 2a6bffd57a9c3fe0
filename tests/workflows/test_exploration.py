"""Trajectories: settings, start frames, and what each is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from aiida import orm

from aiida_alpot.calculations.md import MDCalculation
from aiida_alpot.data.pes import PESData
from aiida_alpot.worker.seeds import derive_seed
from aiida_alpot.workflows.exploration import ExplorationWorkChain, check_md, validate_temperatures


def build(codes: dict[str, str], options: dict[str, Any] | None = None, **overrides: Any) -> Any:
    """Builder of the fast protocol."""
    return ExplorationWorkChain.get_builder_from_protocol(
        codes['md'], seed=5, protocol='fast', overrides=overrides, options=options
    )


@pytest.fixture
def make_chain(
    campaign_codes: dict[str, str], make_frame: Callable, make_committee: Callable, instantiate: Callable
) -> Callable[..., ExplorationWorkChain]:
    """Factory of work chains that have chosen nothing yet; frames of 1 to 8 atoms, the even ones supercells."""

    def make(options: dict[str, Any] | None = None, pbc: Any = True, **overrides: Any) -> ExplorationWorkChain:
        builder = build(campaign_codes, options, **overrides)
        builder.structures = PESData(
            frames=[
                make_frame(n, n_atoms=n, pbc=[pbc] * 3, origin='rattle' if n % 2 else 'supercell') for n in range(1, 9)
            ]
        )
        builder.committee = make_committee(elements=('C', 'Si', 'Ti'))
        return instantiate(builder)

    return make


def test_builder(campaign_codes: dict[str, str]) -> None:
    """What belongs to the chain stays there; the rest goes to each trajectory."""
    builder = build(
        campaign_codes, temperatures=[300, 500.0], n_replicas=2, n_steps=50, options={'max_wallclock_seconds': 100}
    )
    assert builder.temperatures.get_list() == [300.0, 500.0]
    assert builder.n_replicas.value == 2 and builder.seed.value == 5
    parameters = builder.parameters.get_dict()
    assert parameters['n_steps'] == 50 and parameters['device'] == 'cpu' and parameters['ensemble'] == 'npt'
    assert not {'temperatures', 'n_replicas', 'start_origins', 'options', 'max_concurrent'} & set(parameters)
    assert builder.md.metadata.options['max_wallclock_seconds'] == 100


@pytest.mark.parametrize('protocol', ['fast', 'balanced', 'stringent'])
def test_defaults_pass_their_own_validator(campaign_codes: dict[str, str], protocol: str) -> None:
    """The peer's did not (defect 21)."""
    assert ExplorationWorkChain.get_builder_from_protocol(campaign_codes['md'], protocol=protocol).md.code.label


@pytest.mark.parametrize(
    ('overrides', 'sentence'),
    [
        ({'temperatures': []}, '`temperatures` is []'),
        ({'temperatures': 300.0}, '`temperatures` is 300.0, expected a list of numbers'),
        ({'temperatures': [300.0, -5.0]}, '`temperatures` is -5.0, expected a number in (0.0, inf)'),
        ({'temperatures': ['hot']}, "`temperatures` is 'hot', expected a number"),
        ({'temperatures': [float('nan')]}, '`temperatures` is nan'),
        ({'temperatures': [30000.0]}, '`max_temperature` is 20000.0: give more than `temperature`'),
        ({'ensemble': 'npx'}, "`ensemble` is 'npx': give one of nve, nvt, npt"),
        ({'timestep': -1.0}, '`timestep` is -1.0: give femtoseconds in (0, 10]'),
        ({'n_steps': 'many'}, "`n_steps` is 'many': give a number"),
        ({'n_steps': 0}, '`n_steps` is 0: give at least 1'),
        ({'n_replicas': 0}, '`exploration.n_replicas` is 0, expected a whole number at least 1'),
        ({'start_min_atoms': 'two'}, "`exploration.start_min_atoms` is 'two'"),
        ({'device': 'gpu'}, '`device`'),
        ({'dtype': 'float16'}, 'float16'),
        ({'temperature': 300.0}, 'unknown option `exploration.temperature`: did you mean `temperatures`?'),
        ({'max_concurrent': 0}, '`exploration.max_concurrent`: must be'),
    ],
)
def test_refusals(campaign_codes: dict[str, str], overrides: dict[str, Any], sentence: str) -> None:
    """Before anything runs, by the name of the field."""
    with pytest.raises(ValueError) as error:
        build(campaign_codes, **overrides)
    assert sentence in str(error.value) and 'exploration' in str(error.value)


@pytest.mark.usefixtures('aiida_profile')
def test_validators_of_a_chain_built_by_hand() -> None:
    """The ports refuse what the builder refuses."""
    assert validate_temperatures(orm.List([300.0]), None) is None
    assert 'above zero' in str(validate_temperatures(orm.List([300.0, 0.0]), None))
    assert 'above zero' in str(validate_temperatures(orm.List([]), None))
    assert 'unexpected keyword' in str(check_md({'device': 'cpu', 'dtype': 'float64', 'n_step': 3}, [300.0]))
    assert check_md({'device': 'cpu', 'dtype': 'float64', 'n_steps': 3, 'sample_every': 1}, [300.0]) is None


class TestStarts:
    """Where trajectories start."""

    def test_eligible_frames(self, make_chain: Callable) -> None:
        """Of the origins asked for, and large enough; each temperature as often as there are replicas."""
        chain = make_chain(start_origins=['supercell'], start_min_atoms=4, temperatures=[300.0, 600.0], n_replicas=2)
        assert chain.choose_starts() is None
        assert chain.ctx.n_tasks == 4
        assert [t['temperature'] for t in chain.ctx.trajectories] == [300.0, 300.0, 600.0, 600.0]
        # Frames 3, 5 and 7 have 4, 6 and 8 atoms; there are fewer than trajectories.
        assert {t['start'] for t in chain.ctx.trajectories} <= {3, 5, 7}

    def test_each_start_once_where_there_are_enough(self, make_chain: Callable) -> None:
        """No start is drawn twice before all are."""
        chain = make_chain(start_origins=[], temperatures=[300.0], n_replicas=7)
        assert chain.choose_starts() is None
        assert sorted(t['start'] for t in chain.ctx.trajectories) == [1, 2, 3, 4, 5, 6, 7]

    def test_the_seed_decides(self, make_chain: Callable) -> None:
        """The same seed, the same starts."""
        chains = [make_chain(start_origins=[], n_replicas=4) for _ in range(2)]
        for chain in chains:
            chain.choose_starts()
        assert chains[0].ctx.trajectories == chains[1].ctx.trajectories

    @pytest.mark.parametrize(
        'overrides', [{'start_origins': ['surface']}, {'start_origins': ['supercell'], 'start_min_atoms': 9}]
    )
    def test_no_start(self, make_chain: Callable, overrides: dict[str, Any]) -> None:
        """The message names both settings that can be changed."""
        exit_code = make_chain(**overrides).choose_starts()
        assert exit_code.status == 311
        assert 'change `start_origins` or `start_min_atoms`' in exit_code.message

    def test_single_atoms_are_no_start(
        self, campaign_codes: dict[str, str], make_frame: Callable, make_committee: Callable, instantiate: Callable
    ) -> None:
        """A primitive cell of one atom is left out, whatever `start_min_atoms` says: LAMMPS would refuse it."""
        builder = build(campaign_codes, start_origins=[], start_min_atoms=1, n_replicas=3)
        builder.structures = PESData(frames=[make_frame(0, n_atoms=1), make_frame(1, n_atoms=2)])
        builder.committee = make_committee()
        chain = instantiate(builder)
        assert chain.choose_starts() is None
        assert {t['start'] for t in chain.ctx.trajectories} == {1}

    def test_npt_needs_periodicity(self, make_chain: Callable) -> None:
        """A molecule has no pressure; nvt takes it."""
        exit_code = make_chain(pbc=False, start_origins=[]).choose_starts()
        assert exit_code.status == 312 and 'not periodic along any axis: use nvt' in exit_code.message
        assert make_chain(pbc=False, start_origins=[], ensemble='nvt').choose_starts() is None


class TestTask:
    """What a trajectory is given."""

    def test_inputs(self, make_chain: Callable) -> None:
        """Files from a calcfunction, a lineage of its own, and a time limit below the walltime."""
        chain = make_chain(
            options={'max_wallclock_seconds': 1000}, start_origins=['supercell'], temperatures=[450.0, 450.0]
        )
        chain.choose_starts()
        process, inputs = chain.build_task(1)
        assert process is MDCalculation
        assert set(inputs['files']) == {'start', 'driver'}
        preparation = inputs['script'].creator
        assert preparation.process_label == 'prepare_md'
        parameters = preparation.inputs.parameters.get_dict()
        assert parameters['temperature'] == 450.0 and parameters['max_seconds'] == 900
        assert parameters['lineage'] == 'md:5:1'
        assert preparation.inputs.seed.value == derive_seed(5, 'trajectory', 1)
        assert 'timer timeout 900 every 1' in inputs['script'].get_content()

    def test_no_walltime_no_limit(self, make_chain: Callable) -> None:
        """A job without walltime is not stopped."""
        chain = make_chain(options={'max_wallclock_seconds': None}, start_origins=[])
        chain.choose_starts()
        assert 'timer timeout' not in chain.build_task(0)[1]['script'].get_content()

    def test_trajectories_differ(self, make_chain: Callable) -> None:
        """No two share velocities or lineage."""
        chain = make_chain(start_origins=['supercell'], start_min_atoms=8, temperatures=[300.0], n_replicas=2)
        chain.choose_starts()
        scripts = [chain.build_task(index)[1]['script'].get_content() for index in range(2)]
        velocities = [next(line for line in script.splitlines() if line.startswith('velocity')) for script in scripts]
        assert velocities[0] != velocities[1]
        assert np.unique([t['start'] for t in chain.ctx.trajectories]).tolist() == [7]
