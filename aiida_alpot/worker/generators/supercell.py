"""Supercells: the same crystal in a larger cell."""

from __future__ import annotations

from dataclasses import dataclass

from aiida_alpot.worker.frames.frame import Frame
from aiida_alpot.worker.generators.derivation import derive
from aiida_alpot.worker.options import integer

Repeat = tuple[int, int, int]


@dataclass(frozen=True)
class SupercellParameters:
    """Parameters of the supercells.

    :param repeats: repetitions along the three lattice vectors, each 1 to 20, one supercell for each entry;
        along a direction that is not periodic nothing is repeated.
    """

    repeats: tuple[Repeat, ...] = ((1, 1, 1), (2, 1, 1), (2, 2, 1), (2, 2, 2))

    def __post_init__(self) -> None:
        if not isinstance(self.repeats, (list, tuple)) or not self.repeats:
            raise ValueError(f'`repeats` is {self.repeats!r}, expected a list such as [[1, 1, 1], [2, 2, 2]]')
        object.__setattr__(self, 'repeats', tuple(_repeat(entry) for entry in self.repeats))


def _repeat(entry: object) -> Repeat:
    if not isinstance(entry, (list, tuple)) or len(entry) != 3:
        raise ValueError(f'`repeats` has the entry {entry!r}, expected three whole numbers such as [2, 1, 1]')
    a, b, c = (integer('repeats', number, 1, 20) for number in entry)
    return a, b, c


def unsuitable(frame: Frame, parameters: SupercellParameters) -> str:
    """Nothing is: what has no periodic axis is returned as it is."""
    return ''


def supercell(frame: Frame, parameters: SupercellParameters, seed: int) -> list[Frame]:
    """Supercells of a frame, one for each different repetition.

    :param seed: not used.
    """
    periodic = [
        tuple(int(r) if p else 1 for r, p in zip(repeat, frame.pbc, strict=True)) for repeat in parameters.repeats
    ]
    return [_repeated(frame, repeat) for repeat in dict.fromkeys(periodic)]


def _repeated(frame: Frame, repeat: tuple[int, ...]) -> Frame:
    atoms = frame.unlabelled().to_atoms().repeat(repeat)
    return derive(
        frame, 'supercell', numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell.array, repeat=list(repeat)
    )
