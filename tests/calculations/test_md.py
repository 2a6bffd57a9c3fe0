"""Files of a trajectory, and what the job carries."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from aiida import orm
from aiida.common.folders import SandboxFolder

from aiida_alpot.calculations.md import MDCalculation, prepare_md
from aiida_alpot.data.pes import PESData
from aiida_alpot.worker.frames import Frame

PARAMETERS: dict[str, Any] = {
    'ensemble': 'npt',
    'temperature': 450.0,
    'n_steps': 40,
    'sample_every': 10,
    'committee_every': 5,
    'device': 'cpu',
    'dtype': 'float64',
    'lineage': 'md:1:0',
}
# W, Mo and Te as the peer had them: in an order that is neither that of the masses nor the alphabet's.
NUMBERS = [74, 52, 42, 52, 74, 42]


@pytest.fixture
def frames(aiida_profile: Any) -> PESData:
    """Two frames, of which the second has three elements in shuffled order."""
    rng = np.random.default_rng(7)
    positions = rng.uniform(0, 8, size=(6, 3))
    cell = [[8, 0, 0], [2, 8, 0], [1, 1, 9]]
    return PESData(
        frames=[
            Frame([14, 14], [[0, 0, 0], [1, 1, 2]], 5 * np.eye(3), [True] * 3),
            Frame(NUMBERS, positions, cell, [True] * 3),
        ]
    )


@pytest.fixture
def prepared(frames: PESData, make_committee: Callable) -> Callable[..., dict[str, orm.SinglefileData]]:
    """Prepare a trajectory of the second frame."""

    def make(seed: int = 3, n_members: int = 3, **changes: Any) -> dict[str, orm.SinglefileData]:
        committee = make_committee(n_members, elements=('Mo', 'Te', 'W'))
        return prepare_md(frames, orm.Int(1), orm.Dict({**PARAMETERS, **changes}), committee, orm.Int(seed))

    return make


def test_one_type_map_by_atomic_number(prepared: Callable[..., dict[str, orm.SinglefileData]]) -> None:
    """In script, data file and driver alike (peer defect 5: three files, three orders)."""
    files = prepared()
    elements = ['Mo', 'Te', 'W']
    driver = json.loads(files['driver'].get_content())
    assert driver['elements'] == elements
    assert '# types: Mo Te W' in files['script'].get_content()
    data = files['start'].get_content()
    assert [line.split('# ')[1] for line in section(data, 'Masses')] == elements
    assert [float(line.split()[1]) for line in section(data, 'Masses')] == pytest.approx(
        [95.95, 127.6, 183.84], abs=0.1
    )
    types = [int(line.split()[1]) for line in section(data, 'Atoms # atomic')]
    assert [elements[t - 1] for t in types] == ['W', 'Te', 'Mo', 'Te', 'W', 'Mo']


def section(data: str, title: str) -> list[str]:
    """Lines of a section of a LAMMPS data file."""
    body = data.split(f'{title}\n\n')[1]
    return body.split('\n\n')[0].strip().splitlines()


def test_driver_and_script(prepared: Callable[..., dict[str, orm.SinglefileData]]) -> None:
    """Settings, members at the place they are copied to, and a creator."""
    files = prepared()
    driver = json.loads(files['driver'].get_content())
    assert driver['committee'] == ['committee/0.model', 'committee/1.model', 'committee/2.model']
    assert (driver['lineage'], driver['origin']) == ('md:1:0', 'md')
    assert (driver['sample_every'], driver['committee_every'], driver['n_steps']) == (10, 5, 40)
    script = files['script'].get_content()
    assert 'velocity all create 450.0 3 ' in script and 'fix integrate all npt temp 450.0 450.0' in script
    assert [files[name].filename for name in ('script', 'start', 'driver')] == [
        'in.lammps',
        'data.lammps',
        'driver.json',
    ]
    assert {file.creator.process_label for file in files.values()} == {'prepare_md'}


def test_every_member_drives_sometimes(prepared: Callable[..., dict[str, orm.SinglefileData]]) -> None:
    """The seed decides which; equal seeds, equal files."""
    drivers = [json.loads(prepared(seed)['driver'].get_content())['driving_member'] for seed in range(8)]
    assert set(drivers) == {0, 1, 2}
    first, second = prepared(5), prepared(5)
    assert all(first[name].get_content() == second[name].get_content() for name in first)


def test_job(
    prepared: Callable[..., dict[str, orm.SinglefileData]],
    make_committee: Callable,
    campaign_codes: dict[str, str],
    instantiate: Callable,
) -> None:
    """Files where alpot-md looks for them; models are copied, not passed through the database again."""
    files, committee = prepared(), make_committee(3, elements=('Mo', 'Te', 'W')).store()
    process = instantiate(
        MDCalculation,
        code=orm.load_code(campaign_codes['md']),
        script=files['script'],
        files={'start': files['start'], 'driver': files['driver']},
        committee=committee,
    )
    with SandboxFolder() as folder:
        info = process.prepare_for_submission(folder)
        assert {'data.lammps', 'driver.json'} < set(folder.get_content_list())
        with folder.open('driver.json') as stream:
            members = json.load(stream)['committee']
    assert [target for _, _, target in info.local_copy_list] == members
    assert {uuid for uuid, _, _ in info.local_copy_list} == {committee.uuid}
    assert 'md.json' in info.retrieve_list
    assert info.retrieve_temporary_list == [('frames/*.h5', '.', 2), 'deviations.npz']
    assert info.codes_info[0].cmdline_params[0] == '-in' and info.codes_info[0].join_files
    assert process.inputs.metadata.options.parser_name == 'alpot.md'
