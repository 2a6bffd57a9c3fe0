"""Augmentation of start structures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiida import orm
from aiida.engine import WorkChain

from aiida_alpot.calculations.augment import augment, check_plan
from aiida_alpot.calculations.functions import structures_to_frames
from aiida_alpot.data.pes import PESData
from aiida_alpot.worker.options import unknown_name
from aiida_alpot.workflows.protocols import ProtocolMixin
from aiida_alpot.workflows.structures import checked_structures, validate_structures


class DatasetAugmentationWorkChain(ProtocolMixin, WorkChain):
    """Derive structures to label from start structures: supercells, strains, rattles, vacancies, isolated atoms."""

    STAGE = 'augmentation'

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.input_namespace(
            'structures', valid_type=orm.StructureData, validator=validate_structures, help='The start structures.'
        )
        spec.input('parameters', valid_type=orm.Dict, validator=_validate_plan, help='Generators and limits.')
        spec.input('seed', valid_type=orm.Int, help='Seed of all generators.')
        spec.output('frames', valid_type=PESData, help='The structures to label.')
        spec.output(
            'report', valid_type=orm.Dict, help='How many frames of each generator, and what was rejected and why.'
        )
        spec.exit_code(310, 'ERROR_NO_FRAMES', message='the generators gave no frame: see the output `report`')
        spec.outline(cls.generate)

    @classmethod
    def get_builder_from_protocol(
        cls,
        structures: Any = None,
        *,
        seed: int = 0,
        protocol: str | None = None,
        overrides: Mapping[str, Any] | None = None,
    ) -> Any:
        """Builder with the inputs of a protocol.

        :param structures: one or several ``StructureData`` or ASE ``Atoms``.
        :raises ValueError: for an unknown generator or option, or a structure that makes no sense.
        """
        parameters = cls.get_protocol_inputs(protocol, overrides)
        known = cls.get_protocol_inputs(protocol)['generators']
        for name, options in parameters['generators'].items():
            if options is None and name not in known:
                raise ValueError(f'`augmentation.generators.{name}`: {unknown_name(name, known, "step to leave out")}')
        problem = check_plan(parameters)
        if problem:
            raise ValueError(f'`augmentation`: {problem}')
        builder = cls.get_builder()
        if structures is not None:
            builder.structures = checked_structures(structures)
        builder.parameters = orm.Dict(parameters)
        builder.seed = orm.Int(seed)
        return builder

    def generate(self) -> Any:
        """Run the generators."""
        start = structures_to_frames(**self.inputs.structures)
        outputs = augment(start, self.inputs.parameters, self.inputs.seed)
        self.out_many(outputs)
        if 'frames' not in outputs:
            return self.exit_codes.ERROR_NO_FRAMES
        return None


def _validate_plan(node: orm.Dict, _: Any) -> str | None:
    return check_plan(node.get_dict())
