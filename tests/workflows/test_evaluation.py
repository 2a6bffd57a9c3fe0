"""Evaluation: what is refused before the job, and what the job is given."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from aiida import orm
from aiida.common.links import LinkType
from aiida.engine import ExitCode, run_get_node
from ase import Atoms
from ase.build import bulk
from ase.calculators.lj import LennardJones

from aiida_alpot.data.committee import CommitteeData
from aiida_alpot.data.pes import PESData
from aiida_alpot.data.potential import PotentialData
from aiida_alpot.worker.frames import Frame
from aiida_alpot.workflows.evaluation import EvaluationWorkChain


def build(codes: dict[str, str], options: dict[str, Any] | None = None, **overrides: Any) -> Any:
    """Builder of the fast protocol."""
    return EvaluationWorkChain.get_builder_from_protocol(
        codes['evaluate'], protocol='fast', overrides=overrides, options=options
    )


def test_builder(campaign_codes: dict[str, str]) -> None:
    """The settings of the job, and apart from them its options."""
    builder = build(campaign_codes, {'account': 'mine'}, tolerance={'forces': 0.2, 'energy': 0.01}, max_select=3)
    parameters = builder.parameters.get_dict()
    assert parameters['tolerance'] == {'forces': 0.2, 'energy': 0.01} and parameters['max_select'] == 3
    assert 'options' not in parameters and 'max_restarts' not in parameters and parameters['keep_predictions'] is True
    assert builder.max_restarts.value == 5
    options = {'withmpi': False, 'max_wallclock_seconds': 3600, 'account': 'mine', 'resources': {'num_machines': 1}}
    assert dict(builder.options) == options


@pytest.mark.parametrize('protocol', ['fast', 'balanced', 'stringent'])
def test_protocols_are_valid_settings(campaign_codes: dict[str, str], protocol: str) -> None:
    """What the job would refuse is no protocol."""
    EvaluationWorkChain.get_builder_from_protocol(campaign_codes['evaluate'], protocol=protocol)


@pytest.mark.parametrize(
    ('overrides', 'sentence'),
    [
        ({'tolerance': {'forces': -0.1}}, '`tolerance.forces` is -0.1, expected a number in (0.0, inf)'),
        ({'tolerance': {'forces': 0}}, '`tolerance.forces` is 0'),
        ({'tolerance': {'energy': -1}}, '`tolerance.energy` is -1'),
        ({'tolerance': {'forces': 'small'}}, "`tolerance.forces` is 'small'"),
        ({'tolerance': {'forces': None}}, '`evaluation.tolerance.forces`: give the force error that you accept'),
        ({'tolerance': {'force': 0.1}}, 'unknown option `evaluation.tolerance.force`: did you mean `forces`?'),
        ({'tolerance': 0.1}, 'option `evaluation.tolerance` must be a mapping'),
        ({'max_selected': 5}, 'unknown option `evaluation.max_selected`: did you mean `max_select`?'),
        ({'max_select': 0}, '`max_select` is 0, expected a whole number at least 1'),
        ({'selector': 'topk'}, "'topk'. Did you mean 'top_k'?"),
        ({'signal': 'comittee'}, "Did you mean 'committee'?"),
        ({'calibration': 'none'}, 'Known: '),
        ({'gate': {'min_distance': -1.0}}, '`min_distance` is -1.0'),
        ({'gate': {'max_forces': 1.0}}, 'unknown option `evaluation.gate.max_forces`: did you mean `max_force`?'),
        ({'dtype': 'float16'}, 'float16'),
        ({'max_restarts': -1}, '`evaluation.max_restarts` is -1, expected a whole number at least 0'),
        ({'keep_predictions': 1}, '`keep_predictions` is 1, expected true or false'),
    ],
)
def test_refusals(campaign_codes: dict[str, str], overrides: dict[str, Any], sentence: str) -> None:
    """Before anything runs: after a day of labels it would be late."""
    with pytest.raises(ValueError) as error:
        build(campaign_codes, **overrides)
    assert sentence in str(error.value) and 'evaluation' in str(error.value)


class TestRestarts:
    """What follows a job that the walltime ended."""

    @pytest.fixture
    def make_chain(
        self,
        campaign_codes: dict[str, str],
        instantiate: Callable,
        make_committee: Callable,
        make_frame: Callable,
        monkeypatch: pytest.MonkeyPatch,
    ) -> Callable[..., Any]:
        """Factory of chains whose jobs are only written down, in ``chain.jobs``."""

        def make(**inputs: Any) -> Any:
            builder = build(campaign_codes)
            builder.committee = make_committee(2)
            builder.dataset = PESData(frames=[make_frame(0)])
            for name, value in inputs.items():
                setattr(builder, name, value)
            chain = instantiate(builder)
            chain.jobs = []
            monkeypatch.setattr(chain, 'submit', lambda _, **given: chain.jobs.append(given))
            monkeypatch.setattr('aiida_alpot.workflows.evaluation.ToContext', lambda evaluation: evaluation)
            return chain

        return make

    @pytest.fixture
    def make_job(self, aiida_localhost: orm.Computer) -> Callable[..., orm.CalcJobNode]:
        """Factory of jobs that ended."""

        def make(exit_status: int, evaluated: int | None = None) -> orm.CalcJobNode:
            job = orm.CalcJobNode(computer=aiida_localhost, process_type='aiida.calculations:alpot.evaluate')
            job.set_process_state('finished')
            job.set_exit_status(exit_status)
            job.set_exit_message('it ended so')
            job.store()
            outputs = {'remote_folder': orm.RemoteData(remote_path='/scratch/it', computer=aiida_localhost)}
            if evaluated is not None:
                outputs['progress'] = orm.Dict({'evaluated': evaluated, 'kept': 7})
            for name, node in outputs.items():
                node.base.links.add_incoming(job, link_type=LinkType.CREATE, link_label=name)
                node.store()
            return job

        return make

    def step(self, chain: Any, job: orm.CalcJobNode) -> ExitCode | None:
        """Submit a job, which ends as this one."""
        assert chain.has_to_run()
        chain.evaluate()
        chain.ctx.evaluation = job
        return chain.look()

    def test_goes_on_where_the_last_one_stopped(self, make_chain: Callable, make_job: Callable) -> None:
        """Each job is given the folder of the one before."""
        chain = make_chain()
        jobs = [make_job(312, 500), make_job(312, 1), make_job(0)]
        assert [self.step(chain, job) for job in jobs] == [None, None, None]
        assert not chain.has_to_run()
        assert [given.get('parent_folder') for given in chain.jobs] == [
            None,
            *(j.outputs.remote_folder for j in jobs[:2]),
        ]
        labels = [given['metadata']['call_link_label'] for given in chain.jobs]
        assert labels == ['evaluate', 'evaluate_1', 'evaluate_2']

    def test_a_folder_that_is_given_is_that_of_the_first(
        self, make_chain: Callable, make_job: Callable, aiida_localhost: orm.Computer
    ) -> None:
        """What another evaluation knows is taken over by the first job, and from it by the next."""
        given = orm.RemoteData(remote_path='/scratch/other', computer=aiida_localhost).store()
        chain = make_chain(parent_folder=given)
        first = make_job(312, 3)
        self.step(chain, first)
        chain.evaluate()
        assert [job['parent_folder'].uuid for job in chain.jobs] == [given.uuid, first.outputs.remote_folder.uuid]

    @pytest.mark.parametrize('evaluated', [0, None])
    def test_no_progress(self, make_chain: Callable, make_job: Callable, evaluated: int | None) -> None:
        """A job that came no further is not repeated."""
        chain = make_chain()
        assert self.step(chain, make_job(312, 12)) is None
        last = make_job(312, evaluated)
        code = self.step(chain, last)
        assert code.status == 311 and f'process {last.pk}' in code.message and 'max_wallclock_seconds' in code.message
        assert chain.outputs['remote_folder'].uuid == last.outputs.remote_folder.uuid

    def test_too_many(self, make_chain: Callable, make_job: Callable) -> None:
        """A bounded number, and what there is stays within reach."""
        chain = make_chain(max_restarts=orm.Int(1))
        assert self.step(chain, make_job(312, 12)) is None
        last = make_job(312, 12)
        code = self.step(chain, last)
        assert code.status == 312 and 'the walltime ended 2 jobs' in code.message
        assert chain.outputs['remote_folder'].uuid == last.outputs.remote_folder.uuid

    def test_none_wanted(self, make_chain: Callable, make_job: Callable) -> None:
        """With 0 the first is the last."""
        assert self.step(make_chain(max_restarts=orm.Int(0)), make_job(312, 12)).status == 312

    def test_other_failures_are_not_repeated(self, make_chain: Callable, make_job: Callable) -> None:
        """They would fail again."""
        chain = make_chain()
        assert self.step(chain, make_job(310)) is None
        assert not chain.has_to_run() and chain.collect().status == 310

    def test_below_zero(self, make_chain: Callable) -> None:
        """Refused."""
        with pytest.raises(ValueError, match='must be at least 0, found -1'):
            make_chain(max_restarts=orm.Int(-1))


@pytest.mark.slow
def test_real_jobs_that_the_walltime_ends(campaign_codes: dict[str, str]) -> None:
    """A time that no two chunks fit into: as many jobs as there are chunks, and another evaluation asks no model."""
    rng = np.random.default_rng(0)
    base = bulk('Ar', a=5.26)

    def frames(n: int, labelled: bool) -> list[Frame]:
        made = []
        for i in range(n):
            atoms = Atoms(base.numbers, base.positions, cell=base.cell.array * (1 + rng.uniform(-0.1, 0.1)), pbc=True)
            atoms.calc = LennardJones(epsilon=0.013, sigma=3.4, rc=6.0)
            atoms.get_stress()
            split = ['train', 'validation', 'test'][i % 3] if labelled else ''
            made.append(Frame.from_atoms(atoms, labels=labelled, split=split, lineage=str(i)))
        return made

    def member(i: int) -> PotentialData:
        parameters = {'epsilon': 0.0104 + 0.001 * i, 'sigma': 3.4, 'rc': 6.0}
        described = {'calculator': 'ase.calculators.lj.LennardJones', 'parameters': parameters, 'elements': ['Ar']}
        text = json.dumps({**described, 'cutoff': 6.0}).encode()
        fields: dict[str, Any] = {'trainer': 'none', 'elements': ['Ar'], 'cutoff': 6.0, 'seed': i, 'dtype': 'float64'}
        return PotentialData(io.BytesIO(text), f'{i}.json', **fields)

    def evaluate(selector: str, limit: dict[str, float], **inputs: Any) -> orm.WorkChainNode:
        builder = build(campaign_codes, tolerance={'forces': 1e-9, 'energy': 1e-6}, selector=selector)
        builder.parameters = orm.Dict({**builder.parameters.get_dict(), **limit})
        for name, value in inputs.items():
            setattr(builder, name, value)
        return run_get_node(builder)[1]

    given = {
        'committee': CommitteeData.from_potentials([member(i) for i in range(2)]).store(),
        'dataset': PESData(frames=frames(530, True)).store(),
        'pool': PESData(frames=frames(20, False)).store(),
    }
    first = evaluate('threshold_random', {'max_seconds': 1e-3}, **given)
    assert first.is_finished_ok, first.exit_message
    jobs = sorted(first.called, key=lambda job: job.pk)
    assert [job.exit_status for job in jobs] == [312, 312, 0]
    found = [job.outputs.progress.get_dict() for job in jobs[:2]]
    assert found == [
        {'evaluated': 512, 'kept': 0, 'stopped': 'walltime'},
        {'evaluated': 18, 'kept': 512, 'stopped': 'walltime'},
    ]
    assert 'evaluated: 20, kept: 530' in jobs[2].outputs.retrieved.get_object_content('evaluate.out')
    folder = first.outputs.remote_folder
    second = evaluate('top_k', {}, parent_folder=folder, **given)
    (job,) = second.called
    assert second.is_finished_ok and 'evaluated: 0, kept: 550' in job.outputs.retrieved.get_object_content(
        'evaluate.out'
    )
    assert second.outputs.metrics.get_dict() == first.outputs.metrics.get_dict()
    assert np.array_equal(
        second.outputs.scores.get_array('energy_deviation'), first.outputs.scores.get_array('energy_deviation')
    )
