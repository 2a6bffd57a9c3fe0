"""Molecular dynamics in LAMMPS with the committee inside."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from aiida import orm
from aiida.common import CalcInfo
from aiida.common.folders import Folder
from aiida.engine import calcfunction
from aiida_lammps.calculations.raw import LammpsRawCalculation

from aiida_alpot.data.committee import CommitteeData
from aiida_alpot.data.pes import PESData
from aiida_alpot.worker.md.lammps_input import DATA_FILE, DRIVER_FILE, SCRIPT_FILE, MDSettings, write_lammps_input
from aiida_alpot.worker.seeds import derive_seed

COMMITTEE_DIRECTORY = 'committee'


class MDCalculation(LammpsRawCalculation):
    """A run of ``alpot-md``: LAMMPS' raw calculation that also carries a committee and brings sampled frames back."""

    FRAMES = 'frames/*.h5'
    DEVIATIONS = 'deviations.npz'
    SUMMARY = 'md.json'

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.input('committee', valid_type=CommitteeData, help='The committee: one member drives, the others watch.')
        spec.inputs['metadata']['options']['parser_name'].default = 'alpot.md'
        spec.inputs['metadata']['options']['withmpi'].default = False
        spec.inputs['metadata']['options']['resources'].default = lambda: {'num_machines': 1}
        spec.outputs['results'].required = False
        spec.output('frames', valid_type=PESData, required=False, help='Sampled frames, without labels.')
        spec.output(
            'deviations', valid_type=orm.ArrayData, required=False, help='Deviations of the committee by frame_id.'
        )
        spec.exit_code(301, 'ERROR_NO_SUMMARY', message='the run ended before it could write `md.json`: {last_words}')
        spec.exit_code(310, 'ERROR_STOPPED', message='the run stopped after {steps} steps: {reason}')
        spec.exit_code(
            312, 'ERROR_WALLTIME', message='the run stopped at the walltime after {steps} steps; frames are kept'
        )
        spec.exit_code(
            311, 'ERROR_NO_FRAMES', message='the run sampled no frame in {steps} steps: lower `sample_every`'
        )

    def prepare_for_submission(self, folder: Folder) -> CalcInfo:
        """As the raw calculation, with the members of the committee and the files of the driver."""
        calcinfo = super().prepare_for_submission(folder)
        calcinfo.codes_info[0].join_files = True
        calcinfo.local_copy_list = self.inputs.committee.copy_list(COMMITTEE_DIRECTORY)
        calcinfo.retrieve_list.append(self.SUMMARY)
        calcinfo.retrieve_temporary_list = [(self.FRAMES, '.', 2), self.DEVIATIONS]
        return calcinfo


@calcfunction
def prepare_md(
    structures: PESData, index: orm.Int, parameters: orm.Dict, committee: CommitteeData, seed: orm.Int
) -> dict[str, orm.SinglefileData]:
    """Files of one trajectory: LAMMPS script, start structure, settings of the driver.

    :param index: frame of ``structures`` that the trajectory starts from.
    :param parameters: fields of :class:`~aiida_alpot.worker.md.lammps_input.MDSettings`, and ``device``, ``dtype``,
        ``lineage``.
    :param seed: seed of the velocities, the thermostat and the choice of the driving member.
    """
    values = parameters.get_dict()
    surroundings = {key: values.pop(key) for key in ('device', 'dtype', 'lineage')}
    lammps = write_lammps_input(
        structures.frame(index.value),
        MDSettings(**values, seed=seed.value),
        committee=[f'{COMMITTEE_DIRECTORY}/{Path(name).name}' for name in committee.member_filenames],
        driving_member=derive_seed(seed.value, 'driving member') % committee.n_members,
        **surroundings,
    )
    return {
        'script': _file(lammps.script, SCRIPT_FILE),
        'start': _file(lammps.data, DATA_FILE),
        'driver': _file(json.dumps(dict(lammps.driver), indent=1, sort_keys=True), DRIVER_FILE),
    }


def _file(text: str, name: str) -> orm.SinglefileData:
    return orm.SinglefileData(io.BytesIO(text.encode()), filename=name)
