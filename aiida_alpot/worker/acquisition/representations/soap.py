"""SOAP: smooth overlap of atomic positions, a descriptor that no model is needed for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from aiida_alpot.worker.acquisition.representations.optional import require

if TYPE_CHECKING:
    from aiida_alpot.worker.frames.frame import Frame


def soap(
    frames: Sequence[Frame],
    elements_of_model: Sequence[str],
    elements: Sequence[str] | None = None,
    r_cut: float = 6.0,
    n_max: int = 8,
    l_max: int = 6,
    average: str = 'outer',
) -> np.ndarray:
    """SOAP power spectrum, averaged over the atoms of each frame, shape (n, d).

    Bartok, Kondor and Csanyi, Phys. Rev. B 87, 184115, by DScribe (Himanen et al., Comput. Phys. Commun. 247, 106949).
    The defaults are those of the study on pretrained representations. The length d grows with the square of the number
    of elements: name those of the data set where the model knows many more.

    :param elements: species that enter, by default all of the model.
    :param r_cut: A.
    :param n_max: number of radial functions.
    :param l_max: largest degree of the spherical harmonics.
    :param average: ``outer`` (of the power spectra) or ``inner`` (of the coefficients).
    :raises ImportError: without DScribe.
    :raises ValueError: for a frame with an element that is not among the species.
    """
    species = sorted(elements if elements is not None else elements_of_model)
    for index, frame in enumerate(frames):
        foreign = sorted(set(frame.to_atoms().symbols) - set(species))
        if foreign:
            raise ValueError(
                f'frame {index} contains {", ".join(foreign)}, but SOAP is to know {", ".join(species)} only: '
                'name all elements of the pool and of the data set in `elements`'
            )
    kind = require('dscribe.descriptors', 'dscribe', 'the representation `soap`').SOAP
    descriptors = {
        periodic: kind(
            species=species, r_cut=r_cut, n_max=n_max, l_max=l_max, average=average, periodic=periodic, sparse=False
        )
        for periodic in (False, True)
    }
    rows = [descriptors[bool(frame.pbc.any())].create(frame.unlabelled().to_atoms()) for frame in frames]
    return np.array(rows).reshape(len(frames), descriptors[False].get_number_of_features())
