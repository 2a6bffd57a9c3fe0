"""Files of runs, and what the job carries."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiida import orm
from aiida.common.folders import SandboxFolder

from aiida_alpot.calculations.md import MDCalculation, md_settings, validate_runs, write_runs
from aiida_alpot.data.pes import PESData
from aiida_alpot.worker.acquisition.calibration import linear
from aiida_alpot.worker.frames import Frame

PARAMETERS: dict[str, Any] = {
    'n_steps': 40,
    'sample_every': 10,
    'committee_every': 5,
    'restart_every': None,
    'device': 'cpu',
    'dtype': 'float64',
}
CONDITION = {'ensemble': 'npt', 'temperature': 450.0}
# W, Mo and Te as the peer had them: in an order that is neither that of the masses nor the alphabet's.
NUMBERS = [74, 52, 42, 52, 74, 42]
BOUNDS = {'lower': 0.3, 'upper': 2.0, 'on_crossing': 'halt', 'keep_before': 2}


def make_run(**changes: Any) -> dict[str, Any]:
    """One run of the second frame."""
    return {'start': 1, 'seed': 3, 'lineage': 'md:1:0', 'settings': CONDITION, **changes}


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
def written(frames: PESData, make_committee: Callable, tmp_path: Path) -> Callable[..., Path]:
    """Write runs; by default one."""

    def make(*runs: dict[str, Any], n_members: int = 3, calibration: Any = None, **parameters: Any) -> Path:
        committee = make_committee(n_members, elements=('Mo', 'Te', 'W'))
        runs = runs or (make_run(),)
        write_runs(tmp_path, frames, {**PARAMETERS, **parameters}, runs, committee, calibration=calibration)
        return tmp_path

    return make


def driver(folder: Path, run: int = 0) -> dict[str, Any]:
    return json.loads((folder / f'run_{run:04d}' / 'driver.json').read_text())


def test_one_type_map_by_atomic_number(written: Callable[..., Path]) -> None:
    """In script, data file and driver alike (peer defect 5: three files, three orders)."""
    folder = written() / 'run_0000'
    elements = ['Mo', 'Te', 'W']
    assert driver(folder.parent)['elements'] == elements
    for script in ('in.lammps', 'restart.lammps'):
        assert '# types: Mo Te W' in (folder / script).read_text()
    data = (folder / 'data.lammps').read_text()
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


def test_driver_and_scripts(written: Callable[..., Path]) -> None:
    """Settings of all and of each, members at the place they are copied to, a script for the start and to go on."""
    folder = written(make_run(), make_run(seed=4, lineage='md:1:1', settings={'ensemble': 'nve', 'temperature': 99.0}))
    first, second = driver(folder), driver(folder, 1)
    assert first['committee'] == ['../committee/0.model', '../committee/1.model', '../committee/2.model']
    assert (first['lineage'], first['origin'], second['lineage']) == ('md:1:0', 'md', 'md:1:1')
    assert (first['sample_every'], first['committee_every'], first['n_steps']) == (10, 5, 40)
    script, again = ((folder / 'run_0000' / name).read_text() for name in ('in.lammps', 'restart.lammps'))
    assert 'velocity all create 450.0 3 ' in script and 'fix integrate all npt temp 450.0 450.0' in script
    assert 'read_restart start.restart' in again and 'velocity' not in again and 'run 40 upto' in again
    assert 'restart 4 run.restart.a run.restart.b' in script  # a tenth of the steps
    assert 'fix integrate all nve' in (folder / 'run_0001' / 'in.lammps').read_text()


def test_every_member_drives_sometimes(written: Callable[..., Path]) -> None:
    """The seed decides which; equal seeds, equal files."""
    folder = written(*(make_run(seed=seed) for seed in (*range(8), 5)))
    assert {driver(folder, run)['driving_member'] for run in range(8)} == {0, 1, 2}
    for name in ('in.lammps', 'data.lammps', 'driver.json', 'restart.lammps'):
        assert (folder / 'run_0005' / name).read_text() == (folder / 'run_0008' / name).read_text()


def test_calibration(written: Callable[..., Path]) -> None:
    """Of the forces, where something is bounded by the expected error."""
    rng = np.random.default_rng(1)
    deviation = rng.uniform(0.1, 1.0, 200)
    forces = linear(deviation, 2 * deviation * rng.chisquare(3, 200) / 3, np.arange(200)).as_dict()
    calibration = {'forces': forces, 'energy': {'kind': 'other'}}
    folder = written(uncertainty=BOUNDS, calibration=calibration)
    stored = driver(folder)['uncertainty']
    assert stored['calibration'] == forces and (stored['lower'], stored['keep_before']) == (0.3, 2)
    assert 'v_error > 0.3' in (folder / 'run_0000' / 'in.lammps').read_text()
    assert driver(written(calibration=calibration))['uncertainty'] is None
    assert driver(written(uncertainty=BOUNDS))['uncertainty']['calibration'] is None


def test_plumed_cannot_go_on(written: Callable[..., Path]) -> None:
    """The history of its biases stays behind, so there is no script that would go on without it."""
    folder = written(plumed='DISTANCE ATOMS=1,2') / 'run_0000'
    assert (folder / 'plumed.dat').is_file() and not (folder / 'restart.lammps').exists()


def test_a_bias_goes_on_with_its_scale() -> None:
    """What an earlier part learnt in its burn-in."""
    bias = {'temperature': 500.0, 'cap': 1000.0}
    run = make_run(bias={'tau': 0.5, 'spread': 0.1})
    settings = md_settings({**PARAMETERS, 'bias': bias}, run).bias_settings
    assert settings is not None and (settings.tau, settings.spread) == (0.5, 0.1)
    assert md_settings(PARAMETERS, run).bias is None


@pytest.fixture
def make_job(
    frames: PESData, make_committee: Callable, campaign_codes: dict[str, str], instantiate: Callable
) -> Callable[..., Any]:
    """A job of runs."""

    def make(*runs: dict[str, Any], **inputs: Any) -> Any:
        return instantiate(
            MDCalculation,
            code=orm.load_code(campaign_codes['md']),
            structures=frames,
            parameters=orm.Dict(inputs.pop('parameters', PARAMETERS)),
            runs=orm.List(list(runs)),
            committee=make_committee(3, elements=('Mo', 'Te', 'W')).store(),
            **inputs,
        )

    return make


def test_job(make_job: Callable[..., Any]) -> None:
    """Files where alpot-md looks for them; models are copied once, not passed through the database again."""
    process = make_job(
        make_run(), make_run(seed=4), active_set=orm.SinglefileData(io.BytesIO(b'x'), 'sets.npz').store()
    )
    with SandboxFolder() as folder:
        info = process.prepare_for_submission(folder)
        names = {str(path.relative_to(folder.abspath)) for path in Path(folder.abspath).rglob('*') if path.is_file()}
        config = json.loads((Path(folder.abspath) / 'run_0001' / 'driver.json').read_text())
    files = ('in.lammps', 'restart.lammps', 'data.lammps', 'driver.json')
    assert names == {f'run_000{i}/{name}' for i in range(2) for name in files}
    targets = [target for _, _, target in info.local_copy_list]
    assert targets == ['committee/0.model', 'committee/1.model', 'committee/2.model', 'active_set.npz']
    assert [f'../{target}' for target in targets] == [*config['committee'], config['active_set']]
    assert info.retrieve_list == ['lammps.out', ('run_*/md.json', '.', 2)]
    assert info.retrieve_temporary_list == [('run_*/frames/*.h5', '.', 3), ('run_*/watch*.h5', '.', 2)]
    assert info.codes_info[0].cmdline_params == ['-in', 'in.lammps', '-folders', 'run_0000', 'run_0001']
    assert info.codes_info[0].join_files and process.inputs.metadata.options.parser_name == 'alpot.md'


def test_job_goes_on(make_job: Callable[..., Any], aiida_localhost: orm.Computer) -> None:
    """Each run finds the folder of the one that it goes on with."""
    computer = orm.load_computer('localhost')
    parent = orm.RemoteData(remote_path='/work/ab/cd', computer=computer).store()
    process = make_job(make_run(earlier='run_0007'), make_run(), parent_folder=parent)
    with SandboxFolder() as folder:
        info = process.prepare_for_submission(folder)
    assert info.remote_symlink_list == [(computer.uuid, '/work/ab/cd/run_0007', 'run_0000/earlier')]


def test_job_of_a_script(make_committee: Callable, campaign_codes: dict[str, str], instantiate: Callable) -> None:
    """Files of the user's own, as in the raw calculation."""
    committee = make_committee(2).store()
    process = instantiate(
        MDCalculation,
        code=orm.load_code(campaign_codes['md']),
        script=orm.SinglefileData(io.BytesIO(b'units metal'), 'in.lammps').store(),
        files={'driver': orm.SinglefileData(io.BytesIO(b'{}'), 'driver.json').store()},
        committee=committee,
    )
    with SandboxFolder() as folder:
        info = process.prepare_for_submission(folder)
        assert {'driver.json', 'input.in'} <= set(folder.get_content_list())
    assert [target for _, _, target in info.local_copy_list] == ['committee/0.model', 'committee/1.model']
    assert 'md.json' in info.retrieve_list and info.codes_info[0].cmdline_params == ['-in', 'input.in']
    assert info.retrieve_temporary_list == [('frames/*.h5', '.', 2), 'watch*.h5']


def test_refusals(frames: PESData, make_committee: Callable) -> None:
    """Before the job is made."""

    def problem(*runs: dict[str, Any], **changes: Any) -> str | None:
        inputs = {
            'committee': make_committee(),
            'structures': frames,
            'parameters': orm.Dict({**PARAMETERS, **changes.pop('parameters', {})}),
            'runs': orm.List(list(runs)),
            **changes,
        }
        return validate_runs({name: value for name, value in inputs.items() if value is not None}, None)

    assert problem(make_run()) is None
    assert '`runs` is empty' in str(problem())
    assert 'run 1: `ensemble`' in str(problem(make_run(), make_run(settings={'ensemble': 'npx'})))
    assert 'starts from frame 2' in str(problem(make_run(start=2)))
    assert 'PLUMED' in str(problem(make_run(earlier='run_0000'), parameters={'plumed': 'x'}))
    assert 'give `structures`, `parameters` and `runs`' in str(problem(make_run(), structures=None))
    assert 'exclude each other' in str(problem(make_run(), script=orm.Str('x')))
    assert validate_runs({'script': 1, 'committee': 1}, None) is None
