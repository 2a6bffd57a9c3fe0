"""What is known of the commands of a script."""

import pytest

from aiida_alpot.worker.md.script import (
    RunCommand,
    Timer,
    check_commands,
    external_fix,
    script_commands,
    thermostat,
    tries_states,
)


def test_commands_of_a_script():
    text = 'units metal # comment\n\n# comment\nfix a all &\n  nve\nprint """two\nlines"""\nrun 1\n'
    assert list(script_commands(text)) == [
        'units metal # comment',
        'fix a all    nve',
        'print """two\nlines"""',
        'run 1',
    ]
    with pytest.raises(ValueError, match='ends within a command'):
        list(script_commands('run 1 &'))
    assert external_fix('fix mace all external pf/callback 1 1') == 'mace'
    assert external_fix('fix mace all nve') is None


def test_scripts_that_cannot_be_followed():
    with pytest.raises(ValueError, match='defines 0 fixes'):
        check_commands(['run 1'])
    with pytest.raises(ValueError, match='jump'):
        check_commands(['fix a all external pf/callback 1 1', 'jump SELF loop'])


@pytest.mark.parametrize(
    ('command', 'step', 'rest'),
    [
        ('run 100 upto', 30, 'run 100 upto start 30 stop 100'),
        ('run 100', 30, 'run 130 upto start 30 stop 130'),
        ('run 100 start 0 stop 500 pre no', 30, 'run 130 upto start 0 stop 500'),
        ('run 100 every 10 "print a"', 0, None),
        ('minimize 0 1e-6 100 1000', 0, None),
    ],
)
def test_a_run_is_taken_up_where_its_ramps_were(command, step, rest):
    found = RunCommand.of(command, step)
    assert (found and found.rest) == rest


def test_the_timer_goes_on_with_what_is_left():
    timer = Timer()
    timer.note('run 100', 5.0)
    assert timer.again(9.0) == 'timer timeout off'
    timer.note('timer timeout 0:01:30 every 5 # a limit', 10.0)
    assert timer.again(30.0) == 'timer timeout 70 every 5'
    assert timer.again(500.0) == 'timer timeout 1 every 5'
    timer.note('timer timeout off', 600.0)
    assert timer.again(700.0) == 'timer timeout off'


def test_fixes_that_matter():
    assert thermostat('fix integrate all npt temp 300 300 0.1 iso 0 0 1') == 'integrate'
    assert thermostat('fix integrate all nvt/sllod temp 300 300 0.1') == 'integrate'
    assert thermostat('fix integrate all nve') is None
    assert tries_states(['run 1', 'fix swap all atom/swap 10 1 7 300 types 1 2'])
    assert not tries_states(['fix a all nve', 'fix'])
