"""Fixtures of all tests. Those of the worker need no AiiDA profile; others ask for one by ``aiida_profile_clean``."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from aiida_alpot.worker.frames import PROPERTIES, Frame

if TYPE_CHECKING:
    from aiida_alpot.campaign.environment import Environment
    from aiida_alpot.data.committee import CommitteeData

pytest_plugins = 'aiida.tools.pytest_fixtures'

# Property-based tests draw the same examples each time, so that a failure is the same for everybody.
settings.register_profile(
    'alpot',
    max_examples=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile('alpot')


@pytest.fixture
def make_frame() -> Callable[..., Frame]:
    """Factory of frames with made-up labels: ``make_frame(seed, n_atoms=4, labelled=True, **fields)``."""

    def factory(seed: int, n_atoms: int = 4, labelled: bool = True, **fields: Any) -> Frame:
        rng = np.random.default_rng(seed)
        stress = rng.normal(size=(3, 3))
        values: dict[str, Any] = {
            'numbers': rng.choice([6, 14, 22], size=n_atoms),
            'positions': rng.uniform(0, 6, size=(n_atoms, 3)),
            'cell': 6 * np.eye(3) + rng.uniform(-0.5, 0.5, size=(3, 3)),
            'pbc': (True, True, True),
            'lineage': f'lineage-{seed}',
            'origin': 'rattle',
        }
        if labelled:
            values |= {
                'energy': rng.normal(),
                'forces': rng.normal(size=(n_atoms, 3)),
                'stress': (stress + stress.T) / 2,
                'level_of_theory': 'pbe',
            }
        return Frame(**(values | fields))

    return factory


@pytest.fixture
def assert_same_frame() -> Callable[[Frame, Frame], None]:
    """Check that two frames agree to the last bit."""

    def check(left: Frame, right: Frame) -> None:
        for name in ('numbers', 'positions', 'cell', 'pbc', *PROPERTIES):
            a, b = getattr(left, name), getattr(right, name)
            assert (a is None) == (b is None), name
            assert a is None or (np.array_equal(a, b) and np.asarray(a).dtype == np.asarray(b).dtype), name
        assert set(left.arrays) == set(right.arrays)
        for name, array in left.arrays.items():
            assert array.dtype == right.arrays[name].dtype, name
            assert np.array_equal(array, right.arrays[name]), name
        for name in ('lineage', 'origin', 'split', 'level_of_theory', 'frame_id'):
            assert getattr(left, name) == getattr(right, name), name
        assert dict(left.metadata) == dict(right.metadata)

    return check


@pytest.fixture
def environment(aiida_profile: Any) -> Environment:
    """Computer, codes and a pseudopotential family of Si and H in the profile of the tests.

    A program that is not installed is stood in for: the codes exist, and only a test that runs them needs it.
    """
    from aiida import orm
    from aiida.manage import get_config

    from aiida_alpot.campaign.environment import (
        CODES,
        DEFAULT_PSEUDO_DIRECTORY,
        Environment,
        find_pseudopotentials,
        populate_profile,
    )

    if not DEFAULT_PSEUDO_DIRECTORY.is_dir():
        pytest.skip('needs the pseudopotentials of Quantum ESPRESSO from Debian')
    made = Environment(profile=aiida_profile.name, config_directory=Path(get_config().dirpath))
    programs = {label: Path(shutil.which(program) or '/bin/false') for label, (_, program) in CODES.items()}
    found = find_pseudopotentials(DEFAULT_PSEUDO_DIRECTORY)
    populate_profile(made, programs, {symbol: found[symbol] for symbol in ('Si', 'H')})
    orm.load_computer(made.computer).set_minimum_job_poll_interval(0.1)
    return made


@pytest.fixture
def campaign_codes(environment: Environment) -> dict[str, str]:
    """Labels of the codes, by the names that a campaign gives them."""
    names = {'pw': 'pw', 'train': 'alpot-train', 'md': 'alpot-md', 'evaluate': 'alpot-evaluate'}
    return {name: environment.codes[label] for name, label in names.items()}


@pytest.fixture
def make_committee(aiida_profile: Any) -> Callable[..., CommitteeData]:
    """Factory of committees whose models are only bytes."""
    from aiida_alpot.data.committee import CommitteeData
    from aiida_alpot.data.potential import PotentialData

    def make(n_members: int = 2, elements: tuple[str, ...] = ('Si',), **known: Any) -> CommitteeData:
        fields: dict[str, Any] = {'trainer': 'mace', 'elements': elements, 'cutoff': 5.0, 'dtype': 'float64'}
        potentials = [
            PotentialData(io.BytesIO(b'weights %d' % seed), f'{seed}.model', seed=seed, **(fields | known))
            for seed in range(n_members)
        ]
        return CommitteeData.from_potentials(potentials)

    return make


@pytest.fixture
def instantiate(aiida_profile: Any) -> Callable[..., Any]:
    """Make the process of a builder, or of a class and its inputs, without running it."""
    from aiida.engine.utils import instantiate_process
    from aiida.manage import get_manager

    def make(process: Any, **inputs: Any) -> Any:
        return instantiate_process(get_manager().get_runner(), process, **inputs)

    return make
