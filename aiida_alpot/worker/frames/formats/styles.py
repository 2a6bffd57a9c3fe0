"""Under which keys labels are in a file: one entry for each family of programs that reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

VIRIALS = 'virials'
"""Not a label of ours: read only where a declaration says so."""

PER_ATOM = ('forces', 'charges', 'magmoms')
"""The properties that are columns; the others are values of the comment line."""


@dataclass(frozen=True)
class Style:
    """One set of keys.

    :param description: who reads it.
    :param keys: the keys of each property; the first is the one that is written.
    :param fills: whether a label that other frames have is written as NaN where a frame has none.
    """

    description: str
    keys: Mapping[str, tuple[str, ...]]
    fills: bool = False

    def key(self, name: str) -> str:
        """The key under which a property is written."""
        return self.keys[name][0]


STYLES: dict[str, Style] = {
    'mace': Style(
        'MACE (`mace_run_train` with its default keys; `--dipole_key=REF_dipole` for dipoles)',
        {
            'energy': ('REF_energy',),
            'forces': ('REF_forces',),
            'stress': ('REF_stress',),
            'charges': ('REF_charges',),
            'magmoms': ('REF_magmoms',),
            'dipole': ('REF_dipole',),
            VIRIALS: ('REF_virials',),
        },
    ),
    'plain': Style(
        'ASE (`ase.io.read` gives a calculator with the labels) and what follows it',
        {
            'energy': ('energy',),
            'forces': ('forces',),
            'stress': ('stress',),
            'charges': ('charges', 'charge'),
            'magmoms': ('magmoms',),
            'dipole': ('dipole',),
            VIRIALS: ('virial', 'virials'),
        },
    ),
    'metatrain': Style(
        'metatrain (energies, forces and stress of its ASE reader; the others as generic targets)',
        {
            'energy': ('energy',),
            'forces': ('forces',),
            'stress': ('stress',),
            'charges': ('mtt_charges',),
            'magmoms': ('mtt_magmoms',),
            'dipole': ('mtt_dipole',),
            VIRIALS: ('virial',),
        },
        fills=True,
    ),
}

LABEL_KEYS = frozenset(key for style in STYLES.values() for keys in style.keys.values() for key in keys)
"""Every key that means a label somewhere."""
