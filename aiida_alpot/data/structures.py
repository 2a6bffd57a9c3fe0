"""Between frames and AiiDA's ``StructureData``."""

from __future__ import annotations

from aiida.orm import StructureData

from aiida_alpot.worker.frames.frame import Frame


def frame_to_structure(frame: Frame) -> StructureData:
    """Unstored ``StructureData`` of a frame: sites in the order of the atoms, one kind per element.

    :raises ValueError: where a frame without periodicity has no cell, which pw.x needs.
    """
    if frame.volume == 0.0:
        raise ValueError(
            f'{frame.formula} has no three-dimensional cell: give it one (vacuum included) before labelling'
        )
    return StructureData(ase=frame.unlabelled().to_atoms())


def structure_to_frame(structure: StructureData, origin: str = 'input') -> Frame:
    """Frame of a ``StructureData``; it is its own lineage.

    :raises ValueError: for a site that is an alloy or has vacancies.
    """
    for kind in structure.kinds:
        if kind.is_alloy or kind.has_vacancies:
            raise ValueError(
                f'kind `{kind.name}` of structure {structure.get_formula()} is partially occupied: '
                'give an ordered structure'
            )
    frame = Frame.from_atoms(structure.get_ase(), origin=origin)
    return frame.replace(lineage=frame.frame_id[:16])
