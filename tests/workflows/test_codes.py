"""Codes that are asked for, and how many of their jobs may run at a time."""

from __future__ import annotations

import os
from typing import Any

import pytest
from aiida import orm

from aiida_alpot.workflows.codes import checked_concurrency, checked_options, has_no_queue, load_checked_code

CORES = len(os.sched_getaffinity(0))


def code_on(scheduler: str, transport: str = 'core.local') -> orm.InstalledCode:
    """A code on a computer that is not stored."""
    computer = orm.Computer(
        label='cluster', hostname='host', transport_type=transport, scheduler_type=scheduler, workdir='/scratch'
    )
    return orm.InstalledCode(label='x', computer=computer, filepath_executable='/bin/true')


def test_code_is_loaded(campaign_codes: dict[str, str]) -> None:
    """By label, by identifier or as it is."""
    code = load_checked_code(campaign_codes['pw'], 'quantumespresso.pw', 'codes.pw')
    assert code.full_label == campaign_codes['pw']
    assert load_checked_code(code.pk, 'quantumespresso.pw', 'codes.pw').uuid == code.uuid
    assert load_checked_code(code, 'quantumespresso.pw', 'codes.pw') is code


@pytest.mark.parametrize(
    ('given', 'sentence'),
    [
        (None, '`codes.pw`: no code is given; create one with `verdi code create'),
        ('nowhere@localhost', "`codes.pw`: there is no code 'nowhere@localhost' in "),
        (987654, '`codes.pw`: there is no code 987654 in '),
        ('alpot-md@localhost', 'code `alpot-md@localhost` is configured for `alpot.md`, expected `quantumespresso.pw`'),
        ({'label': 'pw'}, "`codes.pw`: expected the label of a code, found {'label': 'pw'}"),
    ],
)
def test_code_is_refused(campaign_codes: dict[str, str], given: Any, sentence: str) -> None:
    """The field, what was found, and what to do."""
    with pytest.raises(ValueError) as error:
        load_checked_code(given, 'quantumespresso.pw', 'codes.pw')
    assert sentence in str(error.value) and 'aiida-alpot setup' in str(error.value)


@pytest.mark.usefixtures('aiida_profile')
class TestConcurrency:
    """Never more jobs than cores where no queue holds them back."""

    def test_default(self) -> None:
        """All cores of this machine, else a number that a scheduler and AiiDA bear."""
        assert checked_concurrency(code_on('core.direct'), None, 'x') == CORES
        assert checked_concurrency(code_on('core.slurm'), None, 'x') == 50
        assert checked_concurrency(code_on('core.direct', 'core.ssh'), None, 'x') == 50

    def test_more_than_cores_is_refused(self) -> None:
        """Only on this machine, and only without a queue."""
        assert checked_concurrency(code_on('core.direct'), CORES, 'x') == CORES
        with pytest.raises(ValueError) as error:
            checked_concurrency(code_on('core.direct'), CORES + 1, 'labelling.max_concurrent')
        assert str(error.value).startswith(f'`labelling.max_concurrent`: {CORES + 1} jobs at a time')
        assert f'give at most {CORES}' in str(error.value)
        assert checked_concurrency(code_on('core.slurm'), 4000, 'x') == 4000

    def test_processes_count_not_jobs(self) -> None:
        """Two jobs of as many processes as there are cores are too many; one is what there is room for."""
        code = code_on('core.direct')
        options = {'withmpi': True, 'resources': {'num_machines': 1, 'num_mpiprocs_per_machine': CORES}}
        assert checked_concurrency(code, None, 'x', options) == 1
        assert checked_concurrency(code, CORES, 'x', {**options, 'withmpi': False}) == CORES
        with pytest.raises(ValueError, match=f'`x`: 2 jobs at a time of {CORES} processes'):
            checked_concurrency(code, 2, 'x', options)
        with pytest.raises(ValueError, match='fewer processes'):
            checked_concurrency(code, None, 'x', {'withmpi': True, 'resources': {'tot_num_mpiprocs': CORES + 1}})

    @pytest.mark.parametrize('number', [0, -1, 1.5, 'two'])
    def test_senseless_numbers_are_refused(self, number: Any) -> None:
        """Whole numbers from one."""
        with pytest.raises(ValueError, match='`x`: must be a whole number of at least 1'):
            checked_concurrency(code_on('core.slurm'), number, 'x')

    def test_queue(self) -> None:
        """Only the direct scheduler starts everything at once."""
        assert has_no_queue(code_on('core.direct')) and not has_no_queue(code_on('core.slurm'))


@pytest.mark.usefixtures('aiida_profile')
def test_options() -> None:
    """Serial on one machine, unless said otherwise; what was given is not changed."""
    given = {'max_wallclock_seconds': 60, 'resources': {'num_mpiprocs_per_machine': 4}, 'withmpi': True}
    made = checked_options(code_on('core.slurm'), given, 'labelling')
    assert made == {
        'withmpi': True,
        'max_wallclock_seconds': 60,
        'resources': {'num_machines': 1, 'num_mpiprocs_per_machine': 4},
    }
    assert given['resources'] == {'num_mpiprocs_per_machine': 4}
    assert checked_options(code_on('core.direct'), {}, 'labelling') == {
        'withmpi': False,
        'resources': {'num_machines': 1},
    }
    assert checked_options(code_on('core.sge'), {}, 'labelling') == {'withmpi': False}


@pytest.mark.usefixtures('aiida_profile')
@pytest.mark.parametrize('walltime', [0, -5, 1.5, '60'])
def test_senseless_walltimes_are_refused(walltime: Any) -> None:
    """A job would be killed at once, and say nothing of why."""
    with pytest.raises(
        ValueError, match=r'`options\.training\.max_wallclock_seconds`: must be whole seconds above zero'
    ):
        checked_options(code_on('core.direct'), {'max_wallclock_seconds': walltime}, 'training')


@pytest.mark.usefixtures('aiida_profile')
def test_mpi_must_fit_the_code() -> None:
    """AiiDA refuses the contradiction too, but only when the job is submitted."""
    code = code_on('core.direct')
    code.with_mpi = False
    with pytest.raises(ValueError, match=r'`options\.labelling\.withmpi`: is True, but code'):
        checked_options(code, {'withmpi': True}, 'labelling')


def test_program_that_is_not_there(environment: Any) -> None:
    """Found before a job of it fails."""
    code = orm.InstalledCode(
        label='gone',
        computer=orm.load_computer('localhost'),
        filepath_executable='/nowhere/pw.x',
        default_calc_job_plugin='quantumespresso.pw',
    ).store()
    with pytest.raises(ValueError, match=r'`codes\.pw`: code `gone@localhost` runs /nowhere/pw\.x, which is not there'):
        load_checked_code(code, 'quantumespresso.pw', 'codes.pw')
