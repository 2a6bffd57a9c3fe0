"""Options are compared with what the trainer takes, where it is installed."""

from __future__ import annotations

import subprocess

import pytest

from aiida_alpot.worker.training import check
from aiida_alpot.worker.training.check import TrainerNotInstalled, check_options

SETTINGS = {'trainer': 'linear', 'cutoff': 4.0, 'parameters': {'n_basis': 5}}


@pytest.fixture
def processes(monkeypatch) -> list[list[str]]:
    """What is started."""
    started = []
    run = subprocess.run

    def note(command, **options):
        started.append(command)
        return run(command, **options)

    check._refused_elsewhere.cache_clear()
    monkeypatch.setattr(check.subprocess, 'run', note)
    return started


def test_here(linear, processes) -> None:
    """A trainer that needs no torch for it is asked in this process."""
    check_options(SETTINGS)
    with pytest.raises(ValueError, match="Did you mean 'n_basis'"):
        check_options({**SETTINGS, 'parameters': {'n_basiss': 5}})
    assert processes == []


def test_in_a_process_of_its_own(linear, processes, monkeypatch) -> None:
    """Once for the same settings."""
    from alpot_linear import LinearTrainer

    monkeypatch.setattr(LinearTrainer, 'checks_without_import', False)
    for _ in range(2):
        check_options(SETTINGS)
        check_options(dict(reversed(SETTINGS.items())))
        with pytest.raises(ValueError, match="Did you mean 'n_basis'"):
            check_options({**SETTINGS, 'parameters': {'n_basiss': 5}})
    assert len(processes) == 2


def test_a_trainer_that_fails_to_load(linear, processes, monkeypatch) -> None:
    from alpot_linear import LinearTrainer

    monkeypatch.setattr(LinearTrainer, 'checks_without_import', False)
    monkeypatch.setattr(check, 'MODULE', 'aiida_alpot.no_such_module')
    with pytest.raises(ValueError, match=r'could not be checked, the trainer failed to load: .*no_such_module'):
        check_options(SETTINGS)


def test_what_is_wrong_without_the_trainer(linear, monkeypatch) -> None:
    """Is refused also where the trainer is not installed."""
    from alpot_linear import LinearTrainer

    monkeypatch.setattr(LinearTrainer, 'requires', 'no_such_package')
    with pytest.raises(TrainerNotInstalled, match='install it there'):
        check_options(SETTINGS)
    with pytest.raises(ValueError, match='`epochs` is 0') as caught:
        check_options({**SETTINGS, 'epochs': 0})
    assert not isinstance(caught.value, TrainerNotInstalled)
    with pytest.raises(ValueError, match="unknown trainer 'lineer'"):
        check_options({**SETTINGS, 'trainer': 'lineer'})
