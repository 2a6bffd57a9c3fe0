"""The active learning loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from aiida import orm
from aiida.engine import ExitCode, ToContext, WorkChain, if_, while_

from aiida_alpot.calculations.augment import run_plan
from aiida_alpot.calculations.campaign import choose_test_frames, summarise_campaign
from aiida_alpot.calculations.functions import extend_dataset
from aiida_alpot.calculations.mace_train import validate_dataset
from aiida_alpot.data.committee import CommitteeData
from aiida_alpot.data.pes import PESData
from aiida_alpot.data.structures import structure_to_frame
from aiida_alpot.worker.frames import check_one_level
from aiida_alpot.worker.options import integer, number, unknown_name
from aiida_alpot.worker.seeds import derive_seed
from aiida_alpot.workflows.augmentation import DatasetAugmentationWorkChain
from aiida_alpot.workflows.evaluation import EvaluationWorkChain
from aiida_alpot.workflows.exploration import ExplorationWorkChain, eligible, start_frames
from aiida_alpot.workflows.fan_out import how_it_ended, validate_positive
from aiida_alpot.workflows.labelling import AbInitioLabellingWorkChain, level_of_inputs
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
CODES = {'pw': 'labelling', 'mace_train': 'training', 'md': 'exploration', 'evaluate': 'evaluation'}
"""The stage that each code of a campaign runs."""

NUMBERS = {
    'max_rounds': orm.Int,
    'patience': orm.Int,
    'targets': orm.Dict,
    'split_fractions': orm.Dict,
    'n_test_frames': orm.Int,
    'seed': orm.Int,
}
TARGETS = ('energy', 'forces', 'stress')


class ActiveLearningWorkChain(ProtocolMixin, WorkChain):
    """Augment, label; then in rounds: train a committee, explore, evaluate, label what it does not know.

    A campaign ends when for ``patience`` rounds in a row no frame of the pool is expected to exceed the tolerance and
    no trajectory was halted (``converged``), when the held-out errors are under all ``targets`` (``targets``), or after
    ``max_rounds`` trainings (``max_rounds``). Labels are only bought when a training follows that uses them. What a
    round has made is attached as outputs at once, so that a campaign that fails keeps it. The context holds node
    identifiers and numbers only.
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
        spec.expose_inputs(TrainingWorkChain, namespace='training', exclude=('dataset', 'seed'))
        spec.expose_inputs(ExplorationWorkChain, namespace='exploration', exclude=('committee', 'structures', 'seed'))
        spec.expose_inputs(
            EvaluationWorkChain, namespace='evaluation', exclude=('committee', 'dataset', 'pool', 'seed')
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
        :param codes: codes or their labels, by ``pw``, ``mace_train``, ``md``, ``evaluate``.
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
        stages = {
            stage: STAGES[stage].get_builder_from_protocol(
                codes.get(code),
                protocol=protocol,
                overrides=inputs[stage],
                options=options.get(stage),
                **({'elements': elements} if stage == 'labelling' else {}),
            )
            for code, stage in CODES.items()
        }
        if dataset is None:
            check_periodic(builder.structures, stages['exploration'].parameters['ensemble'])
            check_augmentation(builder.structures, augmentation.parameters, inputs['seed'], stages['exploration'])
        else:
            check_dataset(dataset, stages['labelling'], stages['exploration'])
        for stage, stage_builder in stages.items():
            builder[stage] = _values(stage_builder)
        for name, kind in NUMBERS.items():
            builder[name] = kind(inputs[name])
        return builder

    # The state: identifiers of nodes, and numbers.

    def initialise(self) -> None:
        """Start with nothing, or with the data set that was given."""
        self.ctx.round = 0
        self.ctx.rounds_without_candidate = 0
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

    def _submit(self, stage: str, label: str, **inputs: Any) -> Any:
        """Submit a stage; the next step finds it in ``self.ctx.child``."""
        values = self.exposed_inputs(STAGES[stage], stage)
        values.update(inputs)
        values.setdefault('metadata', {})['call_link_label'] = label
        self.ctx.stage = stage
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
        exit_code = getattr(self.exit_codes, f'ERROR_{self.ctx.stage.upper()}_FAILED')
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
        return self._submit('training', f'training_{self.ctx.round}', dataset=self.dataset, seed=seed)

    def keep_committee(self) -> ExitCode | None:
        """Attach the committee."""
        exit_code = self._failed()
        if exit_code is None:
            self._record('committee', self.ctx.child.outputs.committee)
        return exit_code

    def needs_test_set(self) -> bool:
        """Whether a test set is wanted and not there yet."""
        return self.inputs.n_test_frames.value > 0 and 'test' not in self.dataset.column('split')

    def explore_for_test(self) -> Any:
        """Trajectories of their own for the test set."""
        return self._explore('exploration_test', self._seed('exploration', 'test'))

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
        return self._explore(f'exploration_{self.ctx.round}', self._seed('exploration', self.ctx.round))

    def _explore(self, label: str, seed: orm.Int) -> Any:
        return self._submit('exploration', label, committee=self.committee, structures=self.dataset, seed=seed)

    def evaluate(self) -> Any:
        """Calibrate, measure, and select from the pool."""
        exit_code = self._failed()
        if exit_code is not None:
            return exit_code
        self._record('pool', self.ctx.child.outputs.frames)
        # A job that was killed leaves frames without a summary.
        outputs = self.ctx.child.outputs
        summaries = outputs.summaries.values() if 'summaries' in outputs else []
        self.ctx.n_halted = sum(summary['reason'] == 'halted' for summary in summaries)
        # The test set may have come after the training: it is evaluated here and was never trained on.
        return self._submit(
            'evaluation',
            f'evaluation_{self.ctx.round}',
            committee=self.committee,
            dataset=self.dataset,
            pool=self.ctx.child.outputs.frames,
            seed=self._seed('evaluation', self.ctx.round),
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
        # A trajectory that ended because the committee deviated has met something unknown, whatever was selected.
        known = unknown + self.ctx.n_halted == 0 and counts['pool'] > counts['rejected']
        self.ctx.rounds_without_candidate = self.ctx.rounds_without_candidate + 1 if known else 0
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


def check_names(codes: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Refuse codes and stages that a campaign does not have.

    :raises ValueError: naming the nearest right one.
    """
    for name, value in (('codes', codes), ('options', options)):
        if not isinstance(value, Mapping):
            raise ValueError(f'`{name}`: must be a mapping, found {value!r}.')
    for name in codes:
        if name not in CODES:
            raise ValueError(f'`codes.{name}`: {unknown_name(name, list(CODES), "code")}')
    for stage in options:
        if stage not in CODES.values():
            raise ValueError(f'`options.{stage}`: {unknown_name(stage, list(CODES.values()), "stage with jobs")}')


def check_dataset(dataset: PESData, labelling: Any, exploration: Any) -> None:
    """Refuse a data set that a campaign with these stages cannot go on from.

    :raises ValueError: for labels of another level of theory, no frames to train on, no frame to start from.
    """
    level = str(level_of_inputs(labelling))
    with dataset.open_store() as store:
        levels = store.levels_of_theory()
    remedy = 'give `labelling` the settings that the labels were made with'
    if dataset.n_labelled == 0:
        raise ValueError(f'`dataset`: it has no labels, and this campaign would add labels of level {level}; {remedy}.')
    try:
        check_one_level([level, *levels])
    except ValueError as exception:
        found = ', '.join(name or 'unknown' for name in levels)
        raise ValueError(
            f'`dataset`: its labels are of level of theory {found}, and this campaign would add labels of level '
            f'{level}; {remedy} ({exception}).'
        ) from exception
    problem = validate_dataset(dataset, None)
    if problem:
        raise ValueError(f'`dataset`: {problem}.')
    origins, n_atoms = exploration.start_origins.get_list(), exploration.start_min_atoms.value
    if not len(start_frames(dataset, origins, n_atoms)):
        raise ValueError(
            f'`exploration.start_origins`: of {", ".join(origins)} the data set has no frame with at least {n_atoms} '
            f'atoms; its origins are {", ".join(dataset.origins) or "empty"}; give [] for any.'
        )


def check_augmentation(
    structures: Mapping[str, orm.StructureData], parameters: orm.Dict, seed: int, exploration: Any
) -> None:
    """Make the structures that the campaign will make, and refuse what would come to nothing after the labelling.

    :raises ValueError: for values out of range, no frame at all, no frame for a trajectory to start from.
    """
    frames = [structure_to_frame(structures[key]) for key in sorted(structures)]
    try:
        made = run_plan(frames, parameters.get_dict(), derive_seed(seed, 'augmentation'))
    except ValueError as exception:
        raise ValueError(f'`augmentation`: {exception}') from exception
    if not made.frames:
        reason = made.rejected[0].reason if made.rejected else 'the plan has no step that is kept'
        raise ValueError(f'`augmentation`: no structure comes out of the plan; {reason}.')
    origins, n_atoms = exploration.start_origins.get_list(), exploration.start_min_atoms.value
    found = [frame.origin for frame in made.frames]
    if not len(eligible(np.array(found), np.array([len(frame) for frame in made.frames]), origins, n_atoms)):
        raise ValueError(
            f'`exploration.start_origins`: of {", ".join(origins) or "any origin"} the augmentation makes no structure '
            f'of at least {n_atoms} atoms to start a trajectory from; its origins are {", ".join(sorted(set(found)))}, '
            f'with at most {max(len(frame) for frame in made.frames)} atoms.'
        )


def check_periodic(structures: Mapping[str, orm.StructureData], ensemble: str) -> None:
    """Refuse a barostat for structures without any periodic axis.

    :raises ValueError: naming the first of them.
    """
    for name, structure in structures.items():
        if ensemble == 'npt' and not any(structure.pbc):
            raise ValueError(
                f'`exploration.ensemble`: npt needs a periodic axis, which `structures.{name}` has not; choose nvt.'
            )


def check_numbers(values: Mapping[str, Any]) -> str | None:
    """What is wrong with the numbers of a campaign, or nothing."""
    fractions = values['split_fractions']
    try:
        for name, least in (('max_rounds', 1), ('patience', 1), ('n_test_frames', 0), ('seed', 0)):
            integer(name, values[name], least)
        for name, fraction in fractions.items():
            number(f'split_fractions.{name}', fraction, 0.0, 1.0, exclusive=name != 'test')
    except ValueError as exception:
        return f'{exception}.'
    if abs(sum(fractions.values()) - 1) > 1e-9:
        return f'`split_fractions`: must add up to 1, found {fractions}.'
    problem = check_targets(values['targets'])
    return f'`targets`: {problem}' if problem else None


def check_targets(targets: Mapping[str, Any]) -> str | None:
    """What is wrong with targets, or nothing."""
    for name, value in targets.items():
        if name not in TARGETS:
            return f'unknown property `{name}`: choose from {", ".join(TARGETS)}.'
        if value is not None and not (isinstance(value, (int, float)) and value > 0):
            return f'the target of {name} must be a number above zero, found {value!r}.'
    return None


def validate_targets(node: orm.Dict, _: Any) -> str | None:
    """Validator of the targets."""
    return check_targets(node.get_dict())


def validate_start(value: Mapping[str, Any], _: Any) -> str | None:
    """Refuse a campaign with nothing to start from."""
    if 'dataset' not in value and not value.get('structures'):
        return '`structures` is empty: give at least one structure to start from, or a labelled `dataset`.'
    if 'dataset' not in value and 'parameters' not in value.get('augmentation', {}):
        return '`augmentation.parameters` is missing: give the generators, or a labelled `dataset`.'
    return None
