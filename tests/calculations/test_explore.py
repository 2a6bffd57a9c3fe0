"""What alpot-explore is given."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiida import orm
from aiida.common.folders import SandboxFolder

from aiida_alpot.calculations.explore import ExploreCalculation, validate_runs
from aiida_alpot.data.pes import PESData
from aiida_alpot.worker.acquisition.calibration import linear
from aiida_alpot.worker.explorers.job import read_job
from aiida_alpot.worker.frames import FrameStore

PARAMETERS: dict[str, Any] = {'device': 'cpu', 'dtype': 'float64', 'uncertainty': {'lower': 0.5, 'on_crossing': 'halt'}}


def make_run(explorer: str = 'relaxation', starts: tuple[int, ...] = (2,), **changes: Any) -> dict[str, Any]:
    return {'explorer': explorer, 'starts': list(starts), 'lineage': 'a:1:0', 'origin': explorer, 'seed': 4, **changes}


@pytest.fixture
def frames(aiida_profile: Any, make_frame: Callable) -> PESData:
    return PESData(frames=[make_frame(i) for i in range(4)])


@pytest.fixture
def make_job(
    frames: PESData,
    make_committee: Callable,
    campaign_codes: dict[str, str],
    instantiate: Callable,
) -> Callable[..., Any]:
    """A job of runs."""

    def make(*runs: dict[str, Any], **inputs: Any) -> Any:
        return instantiate(
            ExploreCalculation,
            code=orm.load_code(campaign_codes['md']),
            structures=frames,
            parameters=orm.Dict(PARAMETERS),
            runs=orm.List(list(runs)),
            committee=make_committee(2, elements=('C', 'Si', 'Ti')).store(),
            **inputs,
        )

    return make


def test_job(make_job: Callable, frames: PESData) -> None:
    """The program reads it; only start structures go along, each once."""
    forces = linear([0.1, 0.2, 0.3] * 5, [0.2, 0.4, 0.6] * 5, list(range(15))).as_dict()
    process = make_job(
        make_run(), make_run(starts=(2,)), make_run('neb', starts=(3, 2)), calibration=orm.Dict({'forces': forces})
    )
    with SandboxFolder() as folder:
        info = process.prepare_for_submission(folder)
        place = Path(folder.abspath)
        job = read_job(place / 'job.json')
        content = json.loads((place / 'job.json').read_text())
        (shard,) = place.glob('starts/*.h5')
        with FrameStore([shard]) as store:
            assert store.column('frame_id').tolist() == [frames.frame(i).frame_id for i in (2, 3)]
        assert info.provenance_exclude_list == [str(shard.relative_to(place))]
    assert [run.explorer for run in job.runs] == ['relaxation', 'relaxation', 'neb']
    assert [index for run in job.runs for _, index in run.start] == [0, 0, 1, 0]
    assert job.runs[0].uncertainty.calibration['fitted_slope'] == pytest.approx(forces['fitted_slope'])
    assert content['uncertainty']['lower'] == 0.5
    assert list(job.committee) == [target for _, _, target in info.local_copy_list]
    assert info.codes_info[0].cmdline_params == ['job.json']
    assert info.retrieve_list == ['explore.out', 'explore.json', ('run_*/explore.json', '.', 2)]
    assert info.retrieve_temporary_list == [('run_*/frames/*.h5', '.', 3)]


def test_job_goes_on(make_job: Callable) -> None:
    """With copies of the folders of the runs, so that the earlier job stays as it was."""
    computer = orm.load_code('alpot-md@localhost').computer
    parent = orm.RemoteData(remote_path='/work/ab/cd', computer=computer).store()
    process = make_job(make_run(), parent_folder=parent)
    with SandboxFolder() as folder:
        info = process.prepare_for_submission(folder)
    assert info.remote_copy_list == [(computer.uuid, '/work/ab/cd/run_*', '.')]


def test_no_starts(make_job: Callable) -> None:
    """A search from nothing."""
    settings = {'composition': {'Si': 2}, 'volume': [15.0, 25.0]}
    process = make_job(make_run('random_search', starts=(), settings=settings))
    with SandboxFolder() as folder:
        assert process.prepare_for_submission(folder).provenance_exclude_list == []


@pytest.mark.parametrize(
    ('run', 'parameters', 'sentence'),
    [
        (make_run('relaxtion'), {}, "Did you mean 'relaxation'"),
        (make_run(starts=(1, 2)), {}, '`relaxation` takes 1 start structures, 2 given'),
        (make_run(starts=(4,)), {}, '`structures` has 4 frames'),
        (make_run(settings={'fmx': 1}), {}, 'fmx'),
        (make_run(), {'uncertainty': {'lower': -1}}, '`lower` is -1'),
        (make_run(), {'device': 'gpu'}, '`device`'),
    ],
)
def test_refusals(frames: PESData, run: dict[str, Any], parameters: dict[str, Any], sentence: str) -> None:
    inputs = {'structures': frames, 'parameters': orm.Dict({**PARAMETERS, **parameters}), 'runs': orm.List([run])}
    assert sentence in str(validate_runs(inputs, None))
    assert '`runs` is empty' in str(validate_runs({**inputs, 'runs': orm.List([])}, None))
    assert validate_runs({}, None) is None
