"""What a user states about the labels of a file that was not written by aiida-alpot. Nothing of it is guessed.

Conversion factors are those of :mod:`ase.units` (CODATA 2014 unless ASE is told otherwise).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ase import units
from ase.data import atomic_numbers

from aiida_alpot.worker import options

from ..frame import PROPERTIES
from ..level_of_theory import LevelOfTheory
from .styles import STYLES, VIRIALS

ENERGY_UNITS = {
    'eV': 1.0,
    'Ry': units.Rydberg,
    'Ha': units.Hartree,
    'kcal/mol': units.kcal / units.mol,
    'kJ/mol': units.kJ / units.mol,
}
"""eV in one of each unit."""

LENGTH_UNITS = {'A': 1.0, 'Bohr': units.Bohr}
"""A in one of each unit."""

FORCE_UNITS = {
    f'{energy}/{length}': ENERGY_UNITS[energy] / LENGTH_UNITS[length]
    for energy in ENERGY_UNITS
    for length in LENGTH_UNITS
}
"""eV/A in one of each unit."""

STRESS_UNITS = {
    'eV/A^3': 1.0,
    'GPa': units.GPa,
    'kbar': 1e3 * units.bar,
    'bar': units.bar,
    'Pa': units.Pascal,
    'Ry/Bohr^3': units.Rydberg / units.Bohr**3,
    'Ha/Bohr^3': units.Hartree / units.Bohr**3,
}
"""eV/A^3 in one of each unit."""

DIPOLE_UNITS = {'e A': 1.0, 'e Bohr': units.Bohr, 'Debye': units.Debye}
"""e A in one of each unit."""

STRESS_SIGNS = {'tension': 1.0, 'pressure': -1.0}
"""What a positive number means: the cell is under tension (as in ASE), or under pressure."""

VOIGT_ORDERS = {'ase': (0, 5, 4, 5, 1, 3, 4, 3, 2), 'vasp': (0, 3, 5, 3, 1, 4, 5, 4, 2)}
"""Which of six numbers stands where in the nine of the tensor: xx yy zz yz xz xy, or xx yy zz xy yz zx."""

ENERGIES = ('total', 'relative')
MISSING = ('refuse', 'drop', 'keep')


@dataclass(frozen=True)
class LabelDeclaration:
    """What the labels of a foreign file mean. Files that aiida-alpot wrote need none of it.

    :param level_of_theory: what the labels were calculated with: a name such as ``VASP PBE 520 eV``, or the whole text
        of a :class:`~aiida_alpot.worker.frames.level_of_theory.LevelOfTheory`. Needed where there are labels, unless
        the file itself tells (ASE databases and trajectories that keep the parameters of their calculator).
    :param energies: ``total`` for absolute total energies of the frames, ``relative`` for energies from which a
        constant was subtracted for each atom of an element. Needed where there are energies.
    :param reference_energies: eV an atom of each element, by symbol, which are added to relative energies. Zeros say
        that the zero is to stay where it is.
    :param energy_unit: of energies and virials.
    :param length_unit: of positions and cell.
    :param force_unit: of forces; energy unit / length unit where it is not given.
    :param stress_unit: needed where there is stress, except in ASE databases and trajectories (eV/A^3).
    :param stress_sign: ``tension`` or ``pressure``, what a positive number means; needed for all units but eV/A^3,
        where ``tension`` is understood.
    :param voigt_order: order of a stress of six numbers: ``ase`` for xx yy zz yz xz xy, ``vasp`` for xx yy zz xy yz zx.
    :param virials: make the stress of virials, ``stress = -virial / volume``; virials are in the energy unit.
    :param dipole_unit: needed where there are dipoles, except in ASE databases and trajectories (e A).
    :param style: the set of keys under which the labels are (:data:`~.styles.STYLES`); found where there is only one.
    :param keys: key of each property (``energy``, ``forces``, ..., ``virials``) that is under another one. Without a
        ``style`` only the properties named here are taken.
    :param properties: which labels to take, of those that there are; ``None`` for all, empty for structures only.
    :param missing: what to do where some frames lack energy or forces: ``refuse`` the file; ``drop`` the frames that
        have not both; ``keep`` all frames with the labels that they have. Isolated atoms need no forces.
    :param lineage_key: key whose value is the lineage; without, each frame is its own lineage.
    :param origin_key: key whose value is the origin.
    :param split_key: key whose value is the split: ``train``, ``validation`` (``valid``, ``val``) or ``test``.
    :param origin: origin of all frames where there is no ``origin_key``. Single atoms that the file marks as
        ``config_type=IsolatedAtom`` get the origin ``isolated_atom`` in any case.
    :param metadata_keys: keys that are kept as metadata; ``None`` for all that mean nothing else.
    :param array_keys: columns of numbers that are kept as user arrays.
    :raises ValueError: for an option with an unknown value, and for options that contradict each other.
    """

    level_of_theory: str = ''
    energies: str | None = None
    reference_energies: Mapping[str, float] = field(default_factory=dict)
    energy_unit: str = 'eV'
    length_unit: str = 'A'
    force_unit: str | None = None
    stress_unit: str | None = None
    stress_sign: str | None = None
    voigt_order: str = 'ase'
    virials: bool = False
    dipole_unit: str | None = None
    style: str | None = None
    keys: Mapping[str, str] = field(default_factory=dict)
    properties: tuple[str, ...] | None = None
    missing: str = 'refuse'
    lineage_key: str = ''
    origin_key: str = ''
    split_key: str = ''
    origin: str = 'import'
    metadata_keys: tuple[str, ...] | None = None
    array_keys: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._check_words()
        self._check_names()
        self._check_level()
        self._check_energies()
        self._check_stress()

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> LabelDeclaration:
        """Declaration of a mapping.

        :raises ValueError: for an unknown option, naming the nearest one, and as the class itself.
        """
        return options.build(cls, given, 'option of a label declaration')

    def _check_words(self) -> None:
        options.choice('energy_unit', self.energy_unit, ENERGY_UNITS)
        options.choice('length_unit', self.length_unit, LENGTH_UNITS)
        options.choice('voigt_order', self.voigt_order, VOIGT_ORDERS)
        options.choice('missing', self.missing, MISSING)
        for name, known in (
            ('energies', ENERGIES),
            ('force_unit', FORCE_UNITS),
            ('stress_unit', STRESS_UNITS),
            ('stress_sign', STRESS_SIGNS),
            ('dipole_unit', DIPOLE_UNITS),
            ('style', STYLES),
        ):
            if getattr(self, name) is not None:
                options.choice(name, getattr(self, name), known)

    def _check_names(self) -> None:
        for name in ('properties', 'metadata_keys', 'array_keys'):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _names(name, getattr(self, name)))
        for name in self.properties or ():
            options.choice('properties', name, PROPERTIES)
        for name in ('lineage_key', 'origin_key', 'split_key', 'origin', 'level_of_theory'):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f'`{name}` is {getattr(self, name)!r}, expected a text')
        if not isinstance(self.virials, bool):
            raise ValueError(f'`virials` is {self.virials!r}, expected true or false')
        for name, key in self.keys.items():
            options.choice('keys', name, (*PROPERTIES, VIRIALS))
            if not isinstance(key, str) or not key:
                raise ValueError(f'`keys` gives {key!r} as the key of {name}, expected a text')
            if name != VIRIALS and not self.takes(name):
                raise ValueError(f'`keys` names {name}, which is none of the `properties` {self.properties}')

    def _check_level(self) -> None:
        if self.level_of_theory:
            LevelOfTheory.parse(self.level_of_theory)

    def _check_energies(self) -> None:
        for symbol, energy in self.reference_energies.items():
            if symbol not in atomic_numbers or symbol == 'X':
                raise ValueError(f'`reference_energies` has an entry {symbol!r}, expected symbols of elements')
            options.number(f'reference_energies[{symbol}]', energy)
        if self.energies == 'relative' and not self.reference_energies:
            raise ValueError(
                "`energies` is 'relative', which needs `reference_energies`: what an atom of each element had "
                'subtracted, in eV, so that the energies can be brought to the scale of isolated atoms'
            )
        if self.energies != 'relative' and self.reference_energies:
            raise ValueError(
                "`reference_energies` are only added where `energies` is 'relative': leave one of them out"
            )

    def _check_stress(self) -> None:
        if self.stress_sign and not self.stress_unit:
            raise ValueError('`stress_sign` is given without `stress_unit`: give both')
        if self.stress_unit not in (None, 'eV/A^3') and not self.stress_sign:
            raise ValueError(
                f'`stress_unit` is {self.stress_unit!r}, which programs write with either sign: add `stress_sign`, '
                "'tension' where a stretched cell has positive numbers (as in ASE), 'pressure' where a compressed one "
                'has them'
            )
        if self.from_virials and self.stress_unit:
            raise ValueError(
                'the stress is to come from virials, whose unit is `energy_unit`, and `stress_unit` is given as well: '
                'leave one of them out'
            )
        if self.from_virials and not self.takes('stress'):
            raise ValueError('virials give the stress, which is none of the `properties`: add it, or drop the virials')
        if self.from_virials and 'stress' in self.keys:
            raise ValueError('`keys` names both a stress and virials: leave one of them out')

    def takes(self, name: str) -> bool:
        """Whether labels of a property are wanted."""
        return self.properties is None or name in self.properties

    @property
    def from_virials(self) -> bool:
        """Whether the stress is made of virials."""
        return self.virials or VIRIALS in self.keys

    @property
    def energy_factor(self) -> float:
        """eV in one energy unit."""
        return ENERGY_UNITS[self.energy_unit]

    @property
    def length_factor(self) -> float:
        """A in one length unit."""
        return LENGTH_UNITS[self.length_unit]

    @property
    def force_factor(self) -> float:
        """eV/A in one force unit."""
        return FORCE_UNITS[self.force_unit] if self.force_unit else self.energy_factor / self.length_factor

    @property
    def stress_factor(self) -> float:
        """eV/A^3, positive under tension, in one stress unit; eV/A^3 where none is given."""
        return STRESS_UNITS[self.stress_unit or 'eV/A^3'] * STRESS_SIGNS[self.stress_sign or 'tension']

    @property
    def dipole_factor(self) -> float:
        """e A in one dipole unit; e A where none is given."""
        return DIPOLE_UNITS[self.dipole_unit or 'e A']


def _names(name: str, value: Iterable[str]) -> tuple[str, ...]:
    if isinstance(value, str) or not all(isinstance(item, str) and item for item in value):
        raise ValueError(f'`{name}` is {value!r}, expected a list of names')
    return tuple(value)
