"""Energies of isolated atoms: labels where there are some, a fit to the training frames elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

ISOLATED_ATOMS, LEAST_SQUARES = 'isolated_atoms', 'least_squares'

SAME_ENERGY = 1e-3
"""Labels of one isolated atom that differ by more than so many eV are reported."""


@dataclass(frozen=True)
class ReferenceEnergies:
    """Energy of the isolated atom of each element, or what stands in for it.

    :param energies: by chemical symbol, eV.
    :param source: :data:`ISOLATED_ATOMS`, or :data:`LEAST_SQUARES` where any of them is fitted.
    :param warnings: sentences, of what is doubtful.
    """

    energies: Mapping[str, float]
    source: str
    warnings: tuple[str, ...] = ()


def reference_energies(
    elements: Sequence[str], labels: Mapping[str, Sequence[float]], counts: np.ndarray, energies: np.ndarray
) -> ReferenceEnergies:
    """Reference energies of these elements.

    Those with a label of the isolated atom have that. The others are fitted to what remains of the energies of the
    training frames, by least squares, and are those of the smallest norm where the frames do not determine them.

    :param elements: chemical symbols, K of them.
    :param labels: energies of isolated atoms by symbol, eV; of several the lowest counts, which is the ground state.
    :param counts: number of atoms of each element in each training frame with an energy, shape (n, K).
    :param energies: total energies of these frames, shape (n,), eV.
    :raises ValueError: for an element without isolated atom that no training frame with an energy has.
    """
    known = {symbol: min(labels[symbol]) for symbol in elements if labels.get(symbol)}
    warnings = [_several(symbol, labels[symbol]) for symbol in known if np.ptp(labels[symbol]) > SAME_ENERGY]
    missing = [symbol for symbol in elements if symbol not in known]
    if not missing:
        return ReferenceEnergies(known, ISOLATED_ATOMS, tuple(warnings))
    if len(energies):
        fitted, rank = _fit(elements, known, missing, counts, energies)
        warnings.append(_was_fitted(missing, rank))
    else:
        fitted = dict.fromkeys(missing, 0.0)
        warnings.append(f'no energy is labelled: the reference energies of {", ".join(missing)} are taken as 0')
    both = {**known, **fitted}
    return ReferenceEnergies({symbol: both[symbol] for symbol in elements}, LEAST_SQUARES, tuple(warnings))


def _fit(
    elements: Sequence[str],
    known: Mapping[str, float],
    missing: Sequence[str],
    counts: np.ndarray,
    energies: np.ndarray,
) -> tuple[dict[str, float], int]:
    """Energies of the missing elements, eV, and the rank of the system that they solve."""
    columns = [elements.index(symbol) for symbol in missing]
    absent = [symbol for symbol, column in zip(missing, columns, strict=True) if not counts[:, column].any()]
    if absent:
        raise ValueError(
            f'no training frame with an energy contains {", ".join(absent)}, and there is no isolated atom of it: '
            'label the isolated atom, or frames with the element in split `train`'
        )
    remainder = energies - sum(counts[:, elements.index(symbol)] * energy for symbol, energy in known.items())
    solution, _, rank, _ = np.linalg.lstsq(counts[:, columns].astype(float), remainder, rcond=None)
    return dict(zip(missing, solution.tolist(), strict=True)), int(rank)


def _several(symbol: str, energies: Sequence[float]) -> str:
    return (
        f'the isolated atom of {symbol} has {len(energies)} labels between {min(energies):.4f} and '
        f'{max(energies):.4f} eV: the lowest is taken'
    )


def _was_fitted(missing: Sequence[str], rank: int) -> str:
    names = ', '.join(missing)
    sentence = (
        f'there is no label of the isolated atom of {names}: the reference energies of {names} are fitted to the '
        'training frames by least squares, so they are no energies of atoms, and energies of frames of other '
        'compositions are less certain'
    )
    if rank < len(missing):
        sentence += (
            f'; the compositions of the training frames determine only {rank} of these {len(missing)} numbers, so they '
            'are not unique: those of the smallest norm are taken'
        )
    return sentence + '; label isolated atoms (generator `isolated_atom`) to avoid this'
