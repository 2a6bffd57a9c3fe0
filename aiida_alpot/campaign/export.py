"""What a campaign leaves for people, outside the database."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from aiida.orm import WorkChainNode

from aiida_alpot.campaign import model_card
from aiida_alpot.data.committee import CommitteeData
from aiida_alpot.data.pes import PESData
from aiida_alpot.worker.frames import Frame, write_extxyz
from aiida_alpot.worker.md.export import export_lammps
from aiida_alpot.worker.md.lammps_input import DRIVER_FILE


def export_campaign(node: WorkChainNode, folder: Path) -> str:
    """Write the report, the data set as extended XYZ and the potential ready for LAMMPS.

    :param folder: made if it does not exist; files of an earlier export are replaced.
    :returns: the table of the rounds and where things are, for the terminal.
    """
    from aiida_alpot.report.gather import gather
    from aiida_alpot.report.html import write_report
    from aiida_alpot.report.table import round_table

    folder.mkdir(parents=True, exist_ok=True)
    record = gather(node)
    lines = [round_table(record), '', f'report       {write_report(record, folder)}']
    dataset: PESData | None = latest(node, 'dataset')
    committee: CommitteeData | None = latest(node, 'committee')
    if dataset is not None:
        write_extxyz(dataset, folder / 'dataset.xyz')
        lines.append(
            f'data set     {folder / "dataset.xyz"}  (node {dataset.pk}, {dataset.n_labelled} labelled frames)'
        )
    if dataset is not None and committee is not None:
        script = export_potential(committee, folder / 'potential', largest_frame(dataset))
        lines.append(f'committee    node {committee.pk}, {committee.n_members} members')
        lines.append(f'potential    {script.parent}  (for LAMMPS: cd there, alpot-md -in {script.name})')
    return '\n'.join(lines)


def export_potential(committee: CommitteeData, folder: Path, frame: Frame | None = None) -> Path:
    """Write a committee as a folder that ``alpot-md`` runs, without AiiDA, with its model card.

    :param folder: made if it does not exist; an earlier export there is replaced, anything else is refused.
    :param frame: start structure of the run that the folder describes.
    :returns: the LAMMPS script.
    """
    if (folder / DRIVER_FILE).is_file():
        shutil.rmtree(folder)  # an earlier export
    with tempfile.TemporaryDirectory() as scratch:
        script = export_lammps(folder, committee.export(scratch), committee.elements, frame=frame)
    (folder / model_card.FILE).write_text(model_card.model_card(committee))
    return script


def largest_frame(dataset: PESData) -> Frame:
    """The first frame with the largest number of atoms."""
    return dataset.frame(int(dataset.column('n_atoms').argmax()))


def latest(node: WorkChainNode, name: str) -> Any:
    """The newest node of this name that a campaign has made, whether it ended or not; ``None`` where there is none."""
    if name in node.outputs:
        return node.outputs[name]
    rounds = node.outputs.rounds if 'rounds' in node.outputs else {}
    for key in sorted(rounds, key=lambda label: int(label.rpartition('_')[2]), reverse=True):
        if name in rounds[key]:
            return rounds[key][name]
    return None
