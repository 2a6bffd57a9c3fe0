r"""Interactions that LAMMPS adds to the forces of the committee: dispersion and a repulsion of the cores.

They act in the dynamics only. Deviations are those of the committee, and frames carry no labels. Whether the committee
was trained on labels without the dispersion or the repulsion that is added here is for the user to know: otherwise it
counts twice.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ase.data import atomic_numbers, covalent_radii

from aiida_alpot.worker.options import choice, number

GHOST_RADIUS = 2.0
"""Cutoff of the pair style without interactions, A: with LAMMPS' skin of 2 A it sets how far ghost atoms reach."""
NEIGHBOURS = 'neigh_modify one 100000 page 1000000'
"""Room for the neighbours within the long cutoff of a dispersion."""
EV_A6 = 10.364269656
"""1 J nm^6 / mol in eV A^6."""

D2_DAMPING = 20.0
D2_SCALES = {'pbe': 0.75, 'b-lyp': 1.2, 'b-p': 1.05, 'tpss': 1.0, 'b3-lyp': 1.05, 'b97-d': 1.25}
"""``s6`` of D2 by functional: Grimme, J. Comput. Chem. 27, 1787 (2006)."""
_TRANSITION = {
    **dict.fromkeys(range(21, 31), (10.80, 1.562)),
    **dict.fromkeys(range(39, 49), (24.67, 1.639)),
}
# fmt: off
D2_COEFFICIENTS: dict[int, tuple[float, float]] = {
    1: (0.14, 1.001), 2: (0.08, 1.012),
    3: (1.61, 0.825), 4: (1.61, 1.408), 5: (3.13, 1.485), 6: (1.75, 1.452), 7: (1.23, 1.397), 8: (0.70, 1.342),
    9: (0.75, 1.287), 10: (0.63, 1.243),
    11: (5.71, 1.144), 12: (5.71, 1.364), 13: (10.79, 1.639), 14: (9.23, 1.716), 15: (7.84, 1.705), 16: (5.57, 1.683),
    17: (5.07, 1.639), 18: (4.61, 1.595),
    19: (10.80, 1.485), 20: (10.80, 1.474), 31: (16.99, 1.650), 32: (17.10, 1.727), 33: (16.37, 1.760),
    34: (12.64, 1.771), 35: (12.47, 1.749), 36: (12.01, 1.727),
    37: (24.67, 1.628), 38: (24.67, 1.606), 49: (37.32, 1.672), 50: (38.71, 1.804), 51: (38.44, 1.881),
    52: (31.74, 1.892), 53: (31.50, 1.892), 54: (29.99, 1.881),
    **_TRANSITION,
}
# fmt: on
"""``C6`` (J nm^6 / mol) and van der Waals radius (A) by atomic number: table 1 of the same paper, H to Xe."""
D3_FUNCTIONALS = (
    'pbe',
    'pbesol',
    'revpbe',
    'rpbe',
    'b-lyp',
    'b-p',
    'b97-d',
    'tpss',
    'pbe0',
    'b3-lyp',
    'hse06',
)
"""Functionals for which LAMMPS has the parameters of D3 with Becke-Johnson damping, by LAMMPS' names."""


@dataclass(frozen=True)
class Dispersion:
    r"""Pairwise dispersion.

    :param method: ``d2`` (Grimme, J. Comput. Chem. 27, 1787 (2006)), :math:`-s_6 \sum \sqrt{C_6^i C_6^j} / r^6 \cdot
        1 / (1 + e^{-20 (r / (R_i + R_j) - 1)})`, elements up to Xe; or ``d3bj`` (Grimme et al., J. Comput. Chem. 32,
        1456 (2011)), two-body terms, as LAMMPS computes them.
    :param functional: whose parameters are taken; it should be that of the labels.
    :param cutoff: A.
    :param coordination_cutoff: of the coordination numbers of ``d3bj``, A.
    :raises ValueError: for a method or a functional without parameters, or a radius that is not positive.
    """

    method: str
    functional: str = 'pbe'
    cutoff: float = 15.0
    coordination_cutoff: float = 10.0

    def __post_init__(self) -> None:
        choice('dispersion.method', self.method, ('d2', 'd3bj'))
        choice('dispersion.functional', self.functional, D2_SCALES if self.method == 'd2' else D3_FUNCTIONALS)
        for name in ('cutoff', 'coordination_cutoff'):
            number(f'dispersion.{name}', getattr(self, name), 0.0, 100.0, exclusive=True)


@dataclass(frozen=True)
class Repulsion:
    """Screened repulsion of the nuclei at short distances.

    :param style: ``zbl``: Ziegler, Biersack and Littmark (1985), as LAMMPS computes it.
    :param inner: where it begins to be switched off, in units of the sum of the covalent radii of a pair (Cordero et
        al., Dalton Trans. 2832 (2008)).
    :param outer: where it is zero, with its force and curvature, in the same units: below all bond lengths, so that it
        acts only where the potential has never been.
    :raises ValueError: for another style, or radii that are not ``0 < inner < outer``.
    """

    style: str = 'zbl'
    inner: float = 0.4
    outer: float = 0.7

    def __post_init__(self) -> None:
        choice('repulsion.style', self.style, ('zbl',))
        number('repulsion.inner', self.inner, 0.0, exclusive=True)
        number('repulsion.outer', self.outer, self.inner, 2.0, exclusive=True)


def pair_commands(
    types: Sequence[str], dispersion: Dispersion | None = None, repulsion: Repulsion | None = None
) -> list[str]:
    """Pair styles beside a pair style without interactions, which has to be there in any case.

    :param types: elements by LAMMPS type.
    :raises ValueError: for an element for which D2 has no parameters.
    """
    none = f'zero {GHOST_RADIUS} nocoeff'
    if dispersion is None and repulsion is None:
        return [f'pair_style {none}', 'pair_coeff * *']
    styles, coefficients = [none], ['pair_coeff * * zero']
    for style, lines in (_dispersion(types, dispersion), _repulsion(types, repulsion)):
        styles += style
        coefficients += lines
    return [f'pair_style hybrid/overlay {" ".join(styles)}', *coefficients, NEIGHBOURS]


def _dispersion(types: Sequence[str], settings: Dispersion | None) -> tuple[list[str], list[str]]:
    if settings is None:
        return [], []
    if settings.method == 'd3bj':
        radii = f'{settings.cutoff!r} {settings.coordination_cutoff!r}'
        return (
            [f'dispersion/d3 bj {settings.functional} {radii}'],
            [f'pair_coeff * * dispersion/d3 {" ".join(types)}'],
        )
    unknown = [symbol for symbol in types if atomic_numbers[symbol] not in D2_COEFFICIENTS]
    if unknown:
        raise ValueError(f'D2 has no parameters for {", ".join(unknown)}, only for H to Xe: use `method: d3bj`')
    lines = []
    for (i, first), (j, second) in _pairs(types):
        (c6_i, radius_i), (c6_j, radius_j) = (D2_COEFFICIENTS[atomic_numbers[s]] for s in (first, second))
        c6 = float((c6_i * c6_j) ** 0.5 * EV_A6)
        # Its Morse part has depth 0; the 1.0 1.0 are the width and place of that.
        lines.append(f'pair_coeff {i} {j} momb 0.0 1.0 1.0 {c6!r} {radius_i + radius_j!r}')
    return [f'momb {settings.cutoff!r} {D2_SCALES[settings.functional]!r} {D2_DAMPING!r}'], lines


def _repulsion(types: Sequence[str], settings: Repulsion | None) -> tuple[list[str], list[str]]:
    """One ZBL style a pair of elements: LAMMPS has one pair of radii a style."""
    if settings is None:
        return [], []
    styles, lines = [], []
    pairs = list(_pairs(types))
    for index, ((i, first), (j, second)) in enumerate(pairs, start=1):
        numbers = atomic_numbers[first], atomic_numbers[second]
        length = float(covalent_radii[list(numbers)].sum())
        styles.append(f'zbl {settings.inner * length:.6f} {settings.outer * length:.6f}')
        which = f'zbl {index}' if len(pairs) > 1 else 'zbl'
        lines.append(f'pair_coeff {i} {j} {which} {numbers[0]:.1f} {numbers[1]:.1f}')
    return styles, lines


def _pairs(types: Sequence[str]) -> Iterable[tuple[tuple[int, str], tuple[int, str]]]:
    return itertools.combinations_with_replacement(enumerate(types, start=1), 2)


def check_styles(commands: Iterable[str], has_style: Callable[[str, str], bool]) -> None:
    """Refuse a script whose fixes or pair styles the LAMMPS in use does not have, before it starts.

    :param commands: of the script.
    :param has_style: ``lammps.has_style``, called with a category (``fix`` or ``pair``) and a name.
    :raises RuntimeError: naming what is missing; for PLUMED, what to do.
    """
    for command in commands:
        for category, name in _styles(command.split()):
            if not has_style(category, name):
                remedy = (
                    'use a LAMMPS that was built with the package PLUMED, or take `plumed` out of the settings'
                    if name == 'plumed'
                    else 'use a LAMMPS that has it, or change the settings'
                )
                raise RuntimeError(
                    f'the LAMMPS in use has no {category} style {name!r}, which the script needs: {remedy}'
                )


def _styles(words: Sequence[str]) -> list[tuple[str, str]]:
    """Category and name of the styles that a command defines, as far as this package writes them."""
    if len(words) > 3 and words[0] == 'fix':
        return [('fix', words[3])]
    if len(words) > 1 and words[0] == 'pair_style':
        known = ('zero', 'zbl', 'momb', 'dispersion/d3', 'mliap')
        return [('pair', word) for word in dict.fromkeys(words[1:]) if word == words[1] or word in known]
    return []
