"""Which conditions are accepted, and which are refused before anything runs."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc100

from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.md.interactions import Dispersion, Repulsion
from aiida_alpot.worker.md.settings import MDSettings, Swaps, check_start, thickness
from aiida_alpot.worker.md.uncertainty import UncertaintySettings


@pytest.fixture
def water():
    return Frame.from_atoms(Atoms('OHH', [[0, 0, 0], [0, 0.76, 0.59], [0, -0.76, 0.59]]))


@pytest.fixture
def slab():
    atoms = fcc100('Ar', (4, 4, 2), a=5.3, vacuum=6.0)
    atoms.pbc = (True, True, False)
    return Frame.from_atoms(atoms)


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('ensemble', 'nph'),
        ('barostat', 'xyz'),
        ('thermostat', 'andersen'),
        ('temperature', 0.0),
        ('temperature', float('nan')),
        ('temperature_end', -1.0),
        ('timestep', -1.0),
        ('timestep', 20.0),
        ('timestep', 5.1),
        ('pressure', 1e9),
        ('n_steps', 0),
        ('sample_every', 0),
        ('committee_every', 0),
        ('restart_every', -1),
        ('seed', -1),
        ('seed', 2**31),
        ('max_temperature', 300.0),
        ('thermostat_damping', 0.0),
        ('max_deviation', 0.0),
        ('min_thickness', -1.0),
        ('plumed', '  '),
        ('deformation', {}),
        ('swaps', 3),
        ('bias', {'temperature': 0.0, 'cap': 100.0}),
        ('uncertainty', {'lower': -1.0}),
        ('dispersion', {'method': 'd4'}),
        ('repulsion', {'style': 'born'}),
        ('allow_long_timestep', 1),
    ],
)
def test_settings_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=name if name in ('bias', 'uncertainty') else f'`{name}'):
        MDSettings(**{name: value})


@pytest.mark.parametrize(
    ('settings', 'said'),
    [
        ({'ensemble': 'nve', 'thermostat': 'csvr'}, '`thermostat` is .csvr.: there is no thermostat in nve'),
        ({'ensemble': 'nve', 'temperature_end': 10.0}, '`temperature_end`'),
        ({'pressure': 1.0}, '`pressure` is 1.0: there is no barostat in nvt'),
        ({'pressure_end': 1.0}, '`pressure_end`'),
        ({'ensemble': 'npt', 'pressure': {'w': 1.0}}, 'axes among x, y, z'),
        ({'ensemble': 'npt', 'pressure': {'x': 'high'}}, '`pressure`'),
        ({'ensemble': 'npt', 'pressure': {'x': 1.0}, 'barostat': 'iso'}, '`barostat`'),
        ({'ensemble': 'npt', 'pressure': {'x': 1.0}, 'pressure_end': {'y': 1.0}}, '`pressure_end`'),
        ({'ensemble': 'npt', 'pressure_end': {'y': 1.0}}, '`pressure_end`'),
        ({'max_temperature': 400.0, 'temperature_end': 500.0}, '`max_temperature`'),
        ({'deformation': {'zx': 0.1}}, 'deformation'),
        ({'deformation': {'xx': float('nan')}}, 'deformation.xx'),
        ({'deformation': {'xx': -1.0}, 'n_steps': 1000}, 'would shrink to less than a tenth'),
        ({'max_deviation': 1.0, 'uncertainty': {'lower': 1.0}}, 'give one of them'),
        ({'uncertainty': {'lower': 1.0, 'before_every': 15}}, 'a multiple of `committee_every`'),
        ({'uncertainty': {'lower': 1.0, 'colour': 'red'}}, 'unknown'),
        ({'bias': {'temperature': 100.0, 'cap': 100.0, 'md_temperature': 300.0}}, 'leave it out'),
        ({'bias': {'temperature': 100.0}}, "'cap' is missing"),
        ({'swaps': {'elements': [['Cu', 'Au']]}, 'ensemble': 'nve'}, 'heats or cools'),
        ({'swaps': {'elements': [['Cu', 'Au']]}, 'plumed': 'd: DISTANCE ATOMS=1,2'}, 'take each trial for a step'),
        ({'swaps': {'elements': [['Cu', 'Au']], 'every': 0}}, '`swaps.every`'),
        ({'swaps': {'elements': [['Cu', 'Cu']]}}, 'two different elements'),
        ({'swaps': {'elements': ['CuAu']}}, 'two different elements'),
        ({'swaps': {'elements': []}}, 'two different elements'),
    ],
)
def test_what_does_not_go_together_is_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        MDSettings(**settings)


def test_mappings_become_what_they_describe():
    settings = MDSettings(
        swaps={'elements': [['Cu', 'Au']], 'every': 20},
        dispersion={'method': 'd2'},
        repulsion={},
        uncertainty={'lower': 0.3, 'on_crossing': 'collect'},
    )
    assert settings.swaps == Swaps([['Cu', 'Au']], every=20)
    assert settings.dispersion == Dispersion('d2') and settings.repulsion == Repulsion()
    assert settings.uncertainty == UncertaintySettings(lower=0.3, on_crossing='collect') == settings.uncertainty_bounds
    assert MDSettings(max_deviation=0.5).uncertainty_bounds == UncertaintySettings(lower=0.5, on_crossing='halt')


def test_the_bias_is_off_where_it_was_to_lead():
    bias = {'temperature': 100.0, 'cap': 400.0}
    settings = MDSettings(bias=bias, temperature=500.0, uncertainty={'lower': 0.3})
    assert (settings.bias_settings.md_temperature, settings.bias_settings.off_above) == (500.0, 0.3)
    assert MDSettings(bias=bias).bias_settings.off_above is None
    assert MDSettings(bias={**bias, 'off_above': 1.0}, max_deviation=0.2).bias_settings.off_above == 1.0
    assert MDSettings().bias_settings is None


def test_bound_of_the_temperature():
    assert MDSettings().temperature_bound == 3000.0
    assert MDSettings(temperature=1000.0).temperature_bound == 5000.0
    assert MDSettings(temperature=100.0, temperature_end=2000.0).temperature_bound == 10000.0
    assert MDSettings(max_temperature=900.0).temperature_bound == 900.0


@pytest.mark.parametrize(('timestep', 'long', 'good'), [(2.0, False, True), (2.1, False, False), (2.1, True, True)])
def test_a_time_step_too_long_for_hydrogen_has_to_be_meant(water, timestep, long, good):
    settings = MDSettings(timestep=timestep, allow_long_timestep=long)
    if good:
        check_start(water, settings)
    else:
        with pytest.raises(ValueError, match=r'2\.1 fs, and the structure has hydrogen'):
            check_start(water, settings)


def test_a_time_step_above_5_fs_has_to_be_meant(slab):
    check_start(slab, MDSettings(timestep=5.0))
    check_start(slab, MDSettings(timestep=8.0, allow_long_timestep=True))
    with pytest.raises(ValueError, match='allow_long_timestep'):
        MDSettings(timestep=8.0)


def test_thickness_is_between_faces_not_along_vectors():
    cell = np.array([[4.0, 0, 0], [3.0, 4.0, 0], [0, 0, 9.0]])
    np.testing.assert_allclose(thickness(cell, np.array([True] * 3)), [3.2, 4.0, 9.0])
    np.testing.assert_allclose(thickness(cell, np.array([True, False, False])), [4.0, np.inf, np.inf])
    # The vacuum does not count, nor does a cell vector that leans into it.
    leaning = np.array([[4.0, 0, 0], [0, 4.0, 0], [3.0, 3.0, 1.0]])
    np.testing.assert_allclose(thickness(leaning, np.array([True, True, False])), [4.0, 4.0, np.inf])
    assert (thickness(np.zeros((3, 3)), np.zeros(3, dtype=bool)) == np.inf).all()


def test_cells_that_are_too_thin_are_refused(slab):
    thin = Frame.from_atoms(bulk('Al', cubic=True))
    check_start(thin, MDSettings())
    with pytest.raises(ValueError, match=r'4\.05 A thin along its periodic axis 1, and `min_thickness` is 5 A'):
        check_start(thin, MDSettings(min_thickness=5.0))
    with pytest.raises(ValueError, match=r'3\.24 A thin along its periodic axis 2 after the deformation'):
        check_start(thin, MDSettings(min_thickness=3.5, deformation={'yy': -0.2}, n_steps=1000))
    check_start(slab, MDSettings(min_thickness=7.0))


def test_a_pressure_along_an_axis_without_periodicity_is_refused(slab, water):
    with pytest.raises(ValueError, match='names the axis z'):
        check_start(slab, MDSettings(ensemble='npt', pressure={'x': 0.0, 'z': 0.0}))
    with pytest.raises(ValueError, match='not periodic along any axis'):
        check_start(water, MDSettings(ensemble='npt'))
    check_start(slab, MDSettings(ensemble='npt', pressure={'x': 0.0, 'y': 1.0}))
    settings = MDSettings(ensemble='npt', pressure=1.0, pressure_end=2.0)
    assert settings.pressure_axes(slab.pbc) == {'x': (1.0, 2.0), 'y': (1.0, 2.0)}
    assert MDSettings().pressure_axes(slab.pbc) == {}


def test_a_deformation_needs_a_periodic_axis_without_a_barostat(slab):
    with pytest.raises(ValueError, match='not periodic along z'):
        check_start(slab, MDSettings(deformation={'xz': 0.1}))
    with pytest.raises(ValueError, match='the barostat acts on x too'):
        check_start(slab, MDSettings(ensemble='npt', deformation={'xx': 0.1}))
    with pytest.raises(ValueError, match='the barostat acts on y too'):
        check_start(slab, MDSettings(ensemble='npt', pressure={'y': 0.0}, deformation={'xy': 0.1}))
    check_start(slab, MDSettings(ensemble='npt', pressure={'y': 0.0}, deformation={'xx': 0.1}))


def test_starts_that_cannot_run_are_refused(slab):
    with pytest.raises(ValueError, match='one atom'):
        check_start(Frame.from_atoms(Atoms('Si')), MDSettings())
    with pytest.raises(ValueError, match='names Kr, of which the start structure has no atom'):
        check_start(slab, MDSettings(swaps={'elements': [['Ar', 'Kr']]}))
