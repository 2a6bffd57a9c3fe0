"""The active learning loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiida import orm
from aiida.engine import ExitCode, ToContext, WorkChain, if_, while_

from aiida_alpot.calculations.campaign import choose_test_frames, summarise_campaign
from aiida_alpot.calculations.functions import extend_dataset
from aiida_alpot.data.committee import CommitteeData
from aiida_alpot.data.pes import PESData
from aiida_alpot.worker.seeds import derive_seed
from aiida_alpot.workflows.augmentation import DatasetAugmentationWorkChain
from aiida_alpot.workflows.campaign_checks import (
    CODES,
    EXPLORE_CODE,
    OF_CAMPAIGN,
    check_augmentation,
    check_dataset,
    check_exploration,
    check_names,
    check_numbers,
    check_periodic,
    check_training,
    validate_start,
    validate_targets,
    validate_warm_start,
)
from aiida_alpot.workflows.evaluation import EvaluationWorkChain
from aiida_alpot.workflows.exploration import ExplorationWorkChain
from aiida_alpot.workflows.exploration_settings import Bounds
from aiida_alpot.workflows.fan_out import how_it_ended, validate_positive
from aiida_alpot.workflows.labelling import AbInitioLabellingWorkChain
from aiida_alpot.workflows.protocols import ProtocolMixin
from aiida_alpot.workflows.structures import checked_structures, validate_structures
from aiida_alpot.workflows.training import TrainingWorkChain

STAGES: dict[str, Any] = {
    'augmentation': DatasetAugmentationWorkChain,
    'labelling': AbInitioLabellingWorkChain,
    'training': TrainingWorkChain,
    'exploration': ExplorationWorkChain,
    'evaluation': EvaluationWorkChain,
}
UNSETTLED = ('halted', 'not_finite', 'temperature', 'lost_atoms', 'potential_error')
"""Reasons of trajectories that ended where the committee does not know, or led nowhere."""

NUMBERS = {
    'max_rounds': orm.Int,
    'patience': orm.Int,
    'targets': orm.Dict,
    'split_fractions': orm.Dict,
    'n_test_frames': orm.Int,
    'seed': orm.Int,
}


class ActiveLearningWorkChain(ProtocolMixin, WorkChain):
    """Augment, label; then in rounds: train a committee, calibrate it, explore, evaluate, label what it does not know.

    A campaign ends when for ``patience`` rounds in a row, with all conditions explored, no frame of the pool is
    expected to exceed the tolerance and no trajectory was halted or went astray (``converged``), when the held-out
    errors are under all ``targets`` (``targets``), or after ``max_rounds`` trainings (``max_rounds``). Labels are only
    bought when a training follows that uses them. What a round has made is attached as outputs at once, so that a
    campaign that fails keeps it. The context holds node identifiers and numbers only.
    """

    STAGE = ''

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.input_namespace(
            'structures',
            valid_type=orm.StructureData,
            required=False,
            validator=validate_structures,
            help='Structures to start from; not needed with `dataset`.',
        )
        spec.input(
            'dataset',
            valid_type=PESData,
            required=False,
            help='Labelled frames to start from, in place of augmentation and its labelling; frames of split `test` '
            'are the test set.',
        )
        spec.input('max_rounds', valid_type=orm.Int, validator=validate_positive, help='Largest number of trainings.')
        spec.input(
            'patience',
            valid_type=orm.Int,
            validator=validate_positive,
            help='Rounds in a row without a candidate after which the campaign has converged.',
        )
        spec.input('targets', valid_type=orm.Dict, validator=validate_targets, help='RMSE on held-out frames to reach.')
        spec.input(
            'split_fractions', valid_type=orm.Dict, help='Fractions of train, validation and test of new frames.'
        )
        spec.input('n_test_frames', valid_type=orm.Int, help='Frames of a separate exploration that form the test set.')
        spec.input('seed', valid_type=orm.Int, help='Seed from which all others follow.')
        spec.expose_inputs(
            DatasetAugmentationWorkChain,
            namespace='augmentation',
            exclude=('structures', 'seed'),
            namespace_options={'required': False, 'populate_defaults': False},
        )
        spec.expose_inputs(AbInitioLabellingWorkChain, namespace='labelling', exclude=('frames',))
        spec.expose_inputs(TrainingWorkChain, namespace='training', exclude=('dataset', 'seed', 'start'))
        spec.input(
            'warm_start',
            valid_type=orm.Dict,
            default=lambda: orm.Dict({'enabled': False, 'reset_every': None}),
            validator=validate_warm_start,
            help='`enabled`: go on with the members of the round before; `reset_every`: but each so many rounds start '
            'all from scratch.',
        )
        spec.expose_inputs(
            ExplorationWorkChain,
            namespace='exploration',
            exclude=(
                *('committee', 'structures', 'seed', 'stage', 'calibration', 'predictions', 'scores'),
                *('md.active_set', 'md.monitors', 'md.remote_folder'),
            ),
        )
        spec.expose_inputs(
            EvaluationWorkChain,
            namespace='evaluation',
            exclude=('committee', 'dataset', 'pool', 'seed', 'parent_folder'),
        )
        spec.inputs.validator = validate_start

        spec.output(
            'results', valid_type=orm.Dict, required=False, help='Why the campaign ended; a summary of each round.'
        )
        spec.output('dataset', valid_type=PESData, required=False, help='All labelled frames.')
        spec.output('committee', valid_type=CommitteeData, required=False, help='The committee of the last round.')
        spec.output('calibration', valid_type=orm.Dict, required=False, help='The calibration of the last round.')
        spec.output_namespace('rounds', dynamic=True, help='What each round made, by `round_<n>`.')
        spec.output_namespace('labelling', valid_type=orm.Dict, dynamic=True, help='Report of each labelling.')

        for status, stage in enumerate(STAGES, start=401):
            spec.exit_code(
                status,
                f'ERROR_{stage.upper()}_FAILED',
                message=f'{stage} failed in round {{round}}: {{reason}} (process {{pk}}); '
                'what was made before is in the outputs',
            )
        spec.exit_code(
            410, 'ERROR_NO_TEST_FRAMES', message='no frame of the test exploration is physical: see process {pk}'
        )
        spec.outline(
            cls.initialise,
            if_(cls.needs_initial_data)(cls.augment, cls.label_augmented, cls.keep_labels),
            while_(cls.goes_on)(
                cls.train,
                cls.keep_committee,
                if_(cls.needs_calibration)(cls.calibrate, cls.keep_calibration),
                if_(cls.needs_test_set)(cls.explore_for_test, cls.label_test_set, cls.keep_labels),
                cls.explore,
                cls.evaluate,
                cls.close_round,
                if_(cls.goes_on)(if_(cls.has_selected)(cls.label_selected, cls.keep_labels)),
            ),
            cls.summarise,
        )

    @classmethod
    def get_builder_from_protocol(
        cls,
        structures: Any,
        codes: Mapping[str, orm.AbstractCode | str],
        *,
        dataset: PESData | None = None,
        protocol: str | None = None,
        overrides: Mapping[str, Any] | None = None,
        options: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> Any:
        """Builder with the inputs of a protocol.

        :param structures: one or several ``StructureData`` or ASE ``Atoms`` to start from.
        :param codes: codes or their labels, by ``pw``, ``train``, ``md``, ``evaluate``, and ``explore`` where
            ``exploration.explorers`` are asked for.
        :param dataset: labelled frames to start from, in place of augmentation.
        :param overrides: values that replace those of the protocol, stage by stage.
        :param options: ``metadata.options`` of the jobs, by stage.
        :raises ValueError: for anything that cannot work, naming the field and the remedy.
        """
        inputs = cls.get_protocol_inputs(protocol, overrides)
        problem = check_numbers(inputs)
        if problem:
            raise ValueError(problem)
        options = options or {}
        check_names(codes, options)
        builder = cls.get_builder()
        if dataset is None:
            builder.structures = checked_structures(structures)
            elements = {symbol for structure in builder.structures.values() for symbol in structure.get_symbols_set()}
            augmentation = DatasetAugmentationWorkChain.get_builder_from_protocol(
                protocol=protocol, overrides=inputs['augmentation']
            )
            builder.augmentation = _values(augmentation)
        else:
            builder.dataset = dataset
            elements = set(dataset.elements)
        tolerance = EvaluationWorkChain.get_protocol_inputs(protocol, inputs['evaluation'])['tolerance']['forces']
        if not isinstance(tolerance, (int, float)) or not tolerance > 0:
            tolerance = None  # which the evaluation refuses, as it comes last
        beside = {
            'labelling': {'elements': elements},
            'exploration': {'tolerance': tolerance, 'explore_code': codes.get(EXPLORE_CODE)},
        }
        stages = {
            stage: STAGES[stage].get_builder_from_protocol(
                codes.get(code),
                protocol=protocol,
                overrides=inputs[stage],
                options=options.get(stage),
                **beside.get(stage, {}),
            )
            for code, stage in CODES.items()
        }
        check_exploration(stages['exploration'], elements)
        check_training(stages['training'], elements)
        if dataset is None:
            check_periodic(builder.structures, stages['exploration'].conditions['ensembles'])
            check_augmentation(builder.structures, augmentation.parameters, inputs['seed'], stages['exploration'])
        else:
            check_dataset(dataset, stages['labelling'], stages['exploration'], stages['training'])
        for stage, stage_builder in stages.items():
            builder[stage] = _values(stage_builder)
        for name, kind in NUMBERS.items():
            builder[name] = kind(inputs[name])
        warm_start = TrainingWorkChain.get_protocol_inputs(protocol, inputs['training'])['warm_start']
        builder.warm_start = orm.Dict({name: warm_start[name] for name in OF_CAMPAIGN})
        return builder

    # The state: identifiers of nodes, and numbers.

    def initialise(self) -> None:
        """Start with nothing, or with the data set that was given."""
        self.ctx.round = 0
        self.ctx.rounds_without_candidate = 0
        self.ctx.stage = 0  # of the conditions of exploration
        self.ctx.ended_by = None
        self.ctx.round_pks = {}
        self.ctx.labelling_pks = {}
        self.ctx.dataset_pk = self.inputs.dataset.pk if 'dataset' in self.inputs else None

    @property
    def dataset(self) -> PESData:
        """All labelled frames so far."""
        return orm.load_node(self.ctx.dataset_pk)

    @property
    def committee(self) -> CommitteeData:
        """The committee of this round."""
        return orm.load_node(self.ctx.round_pks[self._key]['committee'])

    @property
    def _key(self) -> str:
        return f'round_{self.ctx.round}'

    def _seed(self, *labels: str | int) -> orm.Int:
        return orm.Int(derive_seed(self.inputs.seed.value, *labels))

    def _submit(self, stage: str, label: str, /, **inputs: Any) -> Any:
        """Submit a stage; the next step finds it in ``self.ctx.child``."""
        values = self.exposed_inputs(STAGES[stage], stage)
        values.update(inputs)
        values.setdefault('metadata', {})['call_link_label'] = label
        self.ctx.working_on = stage
        self.report(f'{label.replace("_", " ")} starts')
        return ToContext(child=self.submit(STAGES[stage], **values))

    def _failed(self) -> ExitCode | None:
        """The exit code for the stage that has just ended, where it failed; all labels so far are then an output."""
        child = self.ctx.child
        if child.is_finished_ok:
            return None
        if self.ctx.dataset_pk is not None:
            self.out('dataset', self.dataset)
        reason = how_it_ended(child)
        exit_code = getattr(self.exit_codes, f'ERROR_{self.ctx.working_on.upper()}_FAILED')
        return exit_code.format(round=self.ctx.round, reason=reason, pk=child.pk)

    def _record(self, name: str, node: orm.Data) -> None:
        """Attach what this round has made."""
        self.ctx.round_pks.setdefault(self._key, {})[name] = node.pk
        self.out(f'rounds.{self._key}.{name}', node)

    # The first data set.

    def needs_initial_data(self) -> bool:
        """Whether the campaign starts from structures."""
        return self.ctx.dataset_pk is None

    def augment(self) -> Any:
        """Derive structures from the start structures."""
        return self._submit(
            'augmentation', 'augmentation', structures=self.inputs.structures, seed=self._seed('augmentation')
        )

    def label_augmented(self) -> Any:
        """Label the derived structures."""
        return self._failed() or self._label('labelling_initial', self.ctx.child.outputs.frames)

    def _label(self, name: str, frames: PESData) -> Any:
        self.ctx.labelling = name
        return self._submit('labelling', name, frames=frames)

    def keep_labels(self) -> ExitCode | None:
        """Add what was labelled to the data set, and what was not to the report."""
        child = self.ctx.child
        if 'report' in child.outputs:
            self.ctx.labelling_pks[self.ctx.labelling] = child.outputs.report.pk
            self.out(f'labelling.{self.ctx.labelling}', child.outputs.report)
        if 'labelled' in child.outputs:
            inputs = {
                'labelled': child.outputs.labelled,
                'fractions': self.inputs.split_fractions,
                'seed': self._seed('splits'),
            }
            if self.ctx.dataset_pk is not None:
                inputs['dataset'] = self.dataset
            self.ctx.dataset_pk = extend_dataset(**inputs).pk
        return self._failed()

    # A round.

    def goes_on(self) -> bool:
        """Whether another training follows."""
        return self.ctx.ended_by is None

    def train(self) -> Any:
        """Train the committee of a new round."""
        self.ctx.round += 1
        self.report(f'round {self.ctx.round}: {self.dataset.n_labelled} labelled frames')
        self._record('dataset', self.dataset)
        seed = self._seed('training', self.ctx.round)
        inputs = {'dataset': self.dataset, 'seed': seed, **self._earlier_committee()}
        return self._submit('training', f'training_{self.ctx.round}', **inputs)

    def _earlier_committee(self) -> dict[str, CommitteeData]:
        """The committee that the training of this round goes on with, where it is to."""
        made = self.ctx.round_pks.get(f'round_{self.ctx.round - 1}', {})
        if 'committee' not in made or not goes_on_with(self.ctx.round, **self.inputs.warm_start.get_dict()):
            return {}
        start = orm.load_node(made['committee'])
        unknown = sorted(set(self.dataset.elements) - set(start.elements))
        if unknown:
            self.report(f'the earlier committee does not know {", ".join(unknown)}: all starts from scratch')
            return {}
        return {'start': start}

    def keep_committee(self) -> ExitCode | None:
        """Attach the committee, and what is told of its training."""
        outputs = self.ctx.child.outputs
        if 'results' in outputs:
            self._record('training', outputs.results)
        exit_code = self._failed()
        if exit_code is None:
            self._record('committee', outputs.committee)
        return exit_code

    def needs_calibration(self) -> bool:
        """Whether trajectories are bounded by the expected error, which only an evaluation of the committee gives."""
        bounds = Bounds.of(self.inputs.exploration.parameters.get_dict().get('uncertainty'))
        return bounds is not None and bounds.needs_calibration

    def calibrate(self) -> Any:
        """Evaluate the committee on what is labelled."""
        label, seed = f'calibration_{self.ctx.round}', self._seed('calibration', self.ctx.round)
        return self._submit('evaluation', label, committee=self.committee, dataset=self.dataset, seed=seed)

    def keep_calibration(self) -> ExitCode | None:
        """Remember what the exploration and the evaluation of this round need of it."""
        exit_code = self._failed()
        if exit_code is None:
            self.ctx.calibration_pk = self.ctx.child.pk
        return exit_code

    def needs_test_set(self) -> bool:
        """Whether a test set is wanted and not there yet."""
        return self.inputs.n_test_frames.value > 0 and 'test' not in self.dataset.column('split')

    def explore_for_test(self) -> Any:
        """Trajectories of their own for the test set."""
        return self._explore('exploration_test', self._seed('exploration', 'test'), self.dataset)

    def label_test_set(self) -> Any:
        """Label frames of these trajectories."""
        exit_code = self._failed()
        if exit_code is not None:
            return exit_code
        parameters = self.inputs.evaluation.parameters.get_dict()
        min_distance = orm.Float(parameters['gate']['min_distance'])
        chosen = choose_test_frames(self.ctx.child.outputs.frames, self.inputs.n_test_frames, min_distance)
        if 'test' not in chosen:
            return self.exit_codes.ERROR_NO_TEST_FRAMES.format(pk=self.ctx.child.pk)
        return self._label('labelling_test', chosen['test'])

    def explore(self) -> Any:
        """Sample a pool with the committee of this round."""
        same = self.inputs.exploration.starts.get_dict().get('same_starts', False)
        seed = self._seed('exploration') if same else self._seed('exploration', self.ctx.round)
        structures = orm.load_node(self.ctx.round_pks['round_1']['dataset']) if same else self.dataset
        return self._explore(f'exploration_{self.ctx.round}', seed, structures)

    def _explore(self, label: str, seed: orm.Int, structures: PESData) -> Any:
        inputs = {'stage': orm.Int(self.ctx.stage)}
        if self.needs_calibration():
            outputs = orm.load_node(self.ctx.calibration_pk).outputs
            inputs |= {'calibration': outputs.calibration, 'predictions': outputs.predictions}
        scores = self.ctx.round_pks.get(f'round_{self.ctx.round - 1}', {}).get('scores')
        if scores is not None and self.inputs.exploration.starts['start_from'] == 'uncertain':
            inputs['scores'] = orm.load_node(scores)
        return self._submit('exploration', label, committee=self.committee, structures=structures, seed=seed, **inputs)

    def evaluate(self) -> Any:
        """Calibrate, measure, and select from the pool."""
        outputs = self.ctx.child.outputs
        if 'report' in outputs:
            self._record('exploration', outputs.report)
        exit_code = self._failed()
        if exit_code is not None:
            return exit_code
        self._record('pool', outputs.frames)
        reasons = outputs.report['reasons']
        self.ctx.n_unsettled = sum(reasons.get(reason, 0) for reason in UNSETTLED)
        earlier = {}
        if self.needs_calibration() and self.inputs.evaluation.parameters.get_dict().get('keep_predictions', True):
            earlier['parent_folder'] = orm.load_node(self.ctx.calibration_pk).outputs.remote_folder
        # The test set may have come after the training: it is evaluated here and was never trained on.
        return self._submit(
            'evaluation',
            f'evaluation_{self.ctx.round}',
            committee=self.committee,
            dataset=self.dataset,
            pool=outputs.frames,
            seed=self._seed('evaluation', self.ctx.round),
            **earlier,
        )

    def close_round(self) -> ExitCode | None:
        """Attach the evaluation and decide whether another round follows."""
        exit_code = self._failed()
        if exit_code is not None:
            return exit_code
        outputs = self.ctx.child.outputs
        for name in ('calibration', 'metrics', 'selection', 'predictions', 'scores', 'selected'):
            if name in outputs:
                self._record(name, outputs[name])
        counts = outputs.selection['counts']
        unknown = counts['above_threshold'] + counts['rejected_as_uncertain']
        # A trajectory that ended because the committee is unsure has met something unknown, whatever was selected.
        known = unknown + self.ctx.n_unsettled == 0 and counts['pool'] > counts['rejected']
        self._widen(known)
        self.ctx.ended_by = end_of_campaign(
            rounds_without_candidate=self.ctx.rounds_without_candidate,
            patience=self.inputs.patience.value,
            metrics=outputs.metrics.get_dict(),
            targets=self.inputs.targets.get_dict(),
            round_number=self.ctx.round,
            max_rounds=self.inputs.max_rounds.value,
        )
        self.report(
            f'round {self.ctx.round}: {counts["above_threshold"]} of {counts["pool"]} frames exceed the tolerance'
        )
        return None

    def _widen(self, known: bool) -> None:
        """Go on to the next stage of the conditions; a round counts as converged where all of them are explored.

        :param known: whether the round met nothing that is worth a label.
        """
        conditions = self.inputs.exploration.conditions.get_dict()
        last = conditions.get('n_stages', 1) - 1
        counts = known and self.ctx.stage >= last
        self.ctx.rounds_without_candidate = self.ctx.rounds_without_candidate + 1 if counts else 0
        if known or conditions.get('widen') == 'rounds':
            self.ctx.stage = min(self.ctx.stage + 1, last)

    def has_selected(self) -> bool:
        """Whether there is anything to label."""
        return 'selected' in self.ctx.child.outputs

    def label_selected(self) -> Any:
        """Label what the committee does not know."""
        return self._label(f'labelling_{self.ctx.round}', self.ctx.child.outputs.selected)

    def summarise(self) -> None:
        """Final outputs."""
        nodes = {key: {name: orm.load_node(pk) for name, pk in pks.items()} for key, pks in self.ctx.round_pks.items()}
        summarised = ('dataset', 'metrics', 'calibration', 'selection')
        results = summarise_campaign(
            orm.Str(self.ctx.ended_by),
            rounds={key: {name: made[name] for name in summarised} for key, made in nodes.items()},
            labelling={name: orm.load_node(pk) for name, pk in self.ctx.labelling_pks.items()},
        )
        self.out('results', results)
        self.out('dataset', self.dataset)
        self.out('committee', self.committee)
        self.out('calibration', nodes[self._key]['calibration'])
        self.report(f'campaign ended by {self.ctx.ended_by} after {self.ctx.round} rounds')


def goes_on_with(round_number: int, *, enabled: bool, reset_every: int | None) -> bool:
    """Whether the members of a round go on from those of the round before.

    :param round_number: from 1.
    :param reset_every: each so many rounds all starts from scratch, as in the first.
    """
    reset = round_number == 1 or (reset_every is not None and (round_number - 1) % reset_every == 0)
    return enabled and not reset


def end_of_campaign(
    *,
    rounds_without_candidate: int,
    patience: int,
    metrics: Mapping[str, Any],
    targets: Mapping[str, float | None],
    round_number: int,
    max_rounds: int,
) -> str | None:
    """Why a campaign ends after this round, or nothing where it goes on.

    :param metrics: errors by split; those of ``test`` count, or of ``validation`` where there is no test set.
    :param targets: RMSE to reach, of energy in eV/atom, forces in eV/A, stress in eV/A^3; null where any will do.
    """
    if rounds_without_candidate >= patience:
        return 'converged'
    wanted = {name: target for name, target in targets.items() if target is not None}
    held_out = next((split for split in ('test', 'validation') if _is_measured(metrics.get(split))), 'validation')
    if wanted and all(_rmse(metrics.get(held_out, {}), name) <= target for name, target in wanted.items()):
        return 'targets'
    return 'max_rounds' if round_number >= max_rounds else None


def _is_measured(metrics: Mapping[str, Any] | None) -> bool:
    """Whether there are frames of a split; a split without any is listed too, with nothing measured."""
    return any(errors['n'] > 0 for errors in (metrics or {}).values())


def _rmse(metrics: Mapping[str, Any], name: str) -> float:
    """RMSE of a property; infinite where it was not measured."""
    value = (metrics.get(name) or {}).get('rmse')
    return float('inf') if value is None else float(value)


def _values(builder: Any) -> dict[str, Any]:
    """What is set in the builder of a stage; its seed comes from the campaign's."""
    values = builder._inputs(prune=True)
    values.pop('seed', None)
    return values
