"""Load a committee from its files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from aiida_alpot.worker.potentials.committee import Committee

DTYPES = ('float64', 'float32')
KINDS = {'.model': 'a MACE model', '.pt': 'a metatomic model', '.json': 'an ASE calculator'}
"""Kinds of potentials by the suffix of their files."""


def load_committee(
    paths: Sequence[Path | str],
    *,
    device: str = 'cpu',
    dtype: str = 'float64',
    batch_size: int | None = None,
    memory: float | None = None,
) -> Committee:
    """Load potentials that are meant as one committee.

    **Trust**: a ``.model`` file is a pickle, a ``.pt`` file a TorchScript program, and a ``.json`` file names a Python
    class to import. Loading any of them can run any code, so load only what you or your collaborators made.

    :param paths: one file a member, all of the same kind: ``.model`` (MACE), ``.pt`` (metatomic, as metatrain exports
        them) or ``.json`` (any ASE calculator, see :mod:`aiida_alpot.worker.potentials.ase`).
    :param device: ``cpu``, ``cuda``, ``cuda:1``, ...; ASE calculators run where they please.
    :param dtype: precision of the evaluation of MACE models, ``float64`` or ``float32``; metatomic models have their
        own.
    :param batch_size: largest number of frames evaluated at once, by default as many as fit into
    :param memory: bytes that a batch may take; by default half of what is free on a GPU, and on a CPU what is fastest.
    :raises FileNotFoundError: for a file that is not there.
    :raises ValueError: for no file, for mixed or unknown kinds, for members with different elements or cutoffs.
    """
    files = [Path(path) for path in paths]
    if not files:
        raise ValueError('a committee needs at least one potential: give the paths of its files')
    if dtype not in DTYPES:
        raise ValueError(f'`dtype` is {dtype!r}: give one of {", ".join(DTYPES)}')
    for path in files:
        if not path.is_file():
            raise FileNotFoundError(f'there is no potential at {path}: correct the path')
    suffixes = {path.suffix for path in files}
    if len(suffixes) > 1 or not suffixes <= set(KINDS):
        kinds = ', '.join(f'{suffix} ({kind})' for suffix, kind in KINDS.items())
        raise ValueError(f'the files of a committee end in {sorted(suffixes)}: give files of one of the kinds {kinds}')
    if suffixes == {'.model'}:
        from aiida_alpot.worker.potentials.mace import MACECommittee

        return MACECommittee.from_files(files, device=device, dtype=dtype, batch_size=batch_size, memory=memory)
    if suffixes == {'.pt'}:
        from aiida_alpot.worker.potentials.metatomic import MetatomicCommittee

        return MetatomicCommittee.from_files(files, device=device, batch_size=batch_size, memory=memory)
    from aiida_alpot.worker.potentials.ase import ASECommittee

    return ASECommittee.from_files(files, batch_size=batch_size)
