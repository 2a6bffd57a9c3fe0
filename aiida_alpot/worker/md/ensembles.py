"""The part of a LAMMPS script that moves atoms and cell: integrator, thermostat, barostat, deformation, swaps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aiida_alpot.worker.md.settings import MDSettings, Swaps
from aiida_alpot.worker.seeds import derive_seed

BAR_PER_GPA = 1.0e4
_TILTS = {'xy': 'xy', 'xz': 'xz', 'yz': 'yz'}


def motion_commands(settings: MDSettings, types: Sequence[str], pbc: np.ndarray) -> list[str]:
    """All commands that move atoms, cell and species.

    :param types: elements by LAMMPS type.
    :param pbc: shape (3,).
    :raises ValueError: for a barostat along an axis that is not periodic, or swaps of elements that have no type.
    """
    return [
        *_integrator(settings, pbc),
        *_thermostat(settings),
        *_deformation(settings),
        *_swaps(settings, types),
    ]


def run_command(settings: MDSettings) -> str:
    """The run, up to a step that counts from the very beginning, with its ramps, also after a restart."""
    command = f'run {settings.n_steps} upto'
    has_ramp = settings.temperature_end is not None or settings.pressure_end is not None or settings.deformation
    return f'{command} start 0 stop {settings.n_steps}' if has_ramp else command


def is_sheared(settings: MDSettings) -> bool:
    """Whether the cell needs tilts, be they zero at the start."""
    tilts = any(component in _TILTS for component in settings.deformation or {})
    return tilts or (settings.ensemble == 'npt' and settings.barostat == 'tri')


def _thermal(settings: MDSettings) -> str:
    """Temperatures at start and end, K, and relaxation time, ps."""
    end = settings.temperature if settings.temperature_end is None else settings.temperature_end
    damping = (settings.thermostat_damping or 100.0 * settings.timestep) / 1000.0
    return f'{float(settings.temperature)!r} {float(end)!r} {damping!r}'


def _integrator(settings: MDSettings, pbc: np.ndarray) -> list[str]:
    """The fix that moves the atoms: with the thermostat where it is part of it."""
    nose_hoover = settings.thermostat == 'nose_hoover' and settings.ensemble != 'nve'
    temperature = f' temp {_thermal(settings)}' if nose_hoover else ''
    if settings.ensemble == 'npt':
        return [f'fix integrate all {"npt" if nose_hoover else "nph"}{temperature} {_barostat(settings, pbc)}']
    return [f'fix integrate all {"nvt" if nose_hoover else "nve"}{temperature}']


def _thermostat(settings: MDSettings) -> list[str]:
    """A thermostat beside the integrator. After a restart its noise is another one: the step is part of the seed."""
    if settings.ensemble == 'nve' or settings.thermostat == 'nose_hoover':
        return []
    seed = derive_seed(settings.seed, 'thermostat')
    style, rest = ('langevin', ' zero yes') if settings.thermostat == 'langevin' else ('temp/csvr', '')
    return [
        f'variable noise equal 1+({seed}+7919*step)%2147483646',
        f'fix thermostat all {style} {_thermal(settings)} ${{noise}}{rest}',
    ]


def _barostat(settings: MDSettings, pbc: np.ndarray) -> str:
    """The barostat's part of ``fix npt``; pressures in bar, relaxation time in ps."""
    damping = (settings.barostat_damping or 1000.0 * settings.timestep) / 1000.0
    axes = settings.pressure_axes(pbc)
    words = [f'{axis} {start * BAR_PER_GPA!r} {end * BAR_PER_GPA!r} {damping!r}' for axis, (start, end) in axes.items()]
    if settings.barostat == 'iso' and len(axes) > 1:
        words.append(f'couple {"xyz" if len(axes) == 3 else "".join(axes)}')
    if settings.barostat == 'tri':
        # No shear stress whatever the pressure.
        words += [f'{pair} 0.0 0.0 {damping!r}' for pair in ('yz', 'xz', 'xy') if set(pair) <= set(axes)]
    return ' '.join(words)


def _deformation(settings: MDSettings) -> list[str]:
    if not settings.deformation:
        return []
    words = [
        f'{_TILTS.get(component, component[0])} erate {float(rate)!r}'
        for component, rate in settings.deformation.items()
    ]
    return [f'fix deformation all deform 1 {" ".join(words)} units box remap x']


def _swaps(settings: MDSettings, types: Sequence[str]) -> list[str]:
    if not isinstance(settings.swaps, Swaps):
        return []
    swaps = settings.swaps
    temperature = float(settings.temperature if swaps.temperature is None else swaps.temperature)
    type_of = {symbol: index for index, symbol in enumerate(types, start=1)}
    lines = []
    for first, second in swaps.elements:
        if not {first, second} <= set(types):
            raise ValueError(f'`swaps.elements` has {first} and {second}: the types are {", ".join(types)} only')
        seed = max(derive_seed(settings.seed, 'swaps', first, second), 1)
        lines.append(
            f'fix swap_{first}_{second} all atom/swap {swaps.every} {swaps.attempts} {seed} {temperature!r} ke yes '
            f'types {type_of[first]} {type_of[second]}'
        )
    return lines
