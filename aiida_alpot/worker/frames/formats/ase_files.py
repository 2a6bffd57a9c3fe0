"""ASE databases (SQLite) and trajectories. Units are those of ASE: eV, eV/A, eV/A^3 positive under tension, e, e A.

Labels are in a single-point calculator. Beside each frame stands the record (:mod:`.record`), in a database as
``data['alpot']``, in a trajectory as ``info['alpot']``. It holds what these formats have no place for: user arrays
under ``arrays``, and under ``values`` a stress that is not symmetric. In a database lineage, origin, split, level of
theory and ``frame_id`` are key-value pairs as well, so that one can select by them.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress

from ..frame import PROPERTIES, Frame
from .declaration import LabelDeclaration
from .files import at_least_one, replacing
from .interpret import Interpreter
from .record import RECORD_KEY, RawFrame, make_record, read_record
from .styles import PER_ATOM

PAGE = 16
"""Rows of a database that are in memory at once: ASE fetches all that it selects."""

SEARCHABLE = ('lineage', 'origin', 'split', 'level_of_theory', 'frame_id')
"""Key-value pairs of a database."""

NATIVE = {
    'tags': ('i', ()),
    'momenta': ('f', (3,)),
    'masses': ('f', ()),
    'initial_magmoms': ('f', ()),
    'initial_charges': ('f', ()),
}
"""User arrays that ASE keeps itself, where kind and shape of one atom's part are these."""

COLUMNS = (*PER_ATOM, *NATIVE)
RESULTS = (*PROPERTIES, 'free_energy')
"""What is taken from a calculator; the free energy only to say that it is none of the labels."""


# -- databases ---------------------------------------------------------------------------------------------------------


def write_database(frames: Iterable[Frame], path: Path | str) -> int:
    """Write frames to a new ASE database (SQLite), as they stream in; it replaces a file of this name at the end.

    :return: number of frames written.
    :raises ValueError: for no frames.
    :raises OSError: where the file cannot be written.
    """
    from ase.db import connect

    count = 0
    try:
        with replacing(Path(path)) as temporary, connect(temporary, type='db', use_lock_file=False) as database:
            for frame in at_least_one(frames):
                atoms = _to_atoms(frame)
                database.write(atoms, _pairs(frame), data={RECORD_KEY: _record(frame)})
                _release(atoms)
                count += 1
    except sqlite3.OperationalError as error:
        raise OSError(f'{path} could not be written ({error})') from error
    return count


def read_database(path: Path | str, declaration: LabelDeclaration | None = None) -> Iterator[Frame]:
    """Read frames from an ASE database (SQLite), in the order of their ids, a few rows at a time.

    Values are taken from the calculator and the key-value pairs; a key of ``data`` is one only where a declaration
    names it.

    :param declaration: what the labels mean, where aiida-alpot did not write them.
    :raises ValueError: for what is no such database, and as :func:`~.extxyz.read_extxyz`.
    """
    path = Path(path)
    interpreter = Interpreter(declaration or LabelDeclaration(), _own_frame, ase_units=True)
    named = set(interpreter.declaration.keys.values()) | set(interpreter.declaration.metadata_keys or ())
    return interpreter.frames((_row_entry(row, path, named) for row in _rows(path)), str(path))


def _rows(path: Path) -> Iterator[Any]:
    """The rows in the order of their ids."""
    from ase.db import connect

    try:
        with closing(sqlite3.connect(f'{path.absolute().as_uri()}?mode=ro', uri=True)) as connection:
            # In other files ASE would create its tables.
            if not connection.execute("SELECT COUNT(*) FROM sqlite_master WHERE name = 'systems'").fetchone()[0]:
                raise ValueError(f'{path} is an SQLite file but no database of ASE: it has no table `systems`')
            database = connect(path, type='db', use_lock_file=False, serial=True)
            ids = connection.execute('SELECT id FROM systems ORDER BY id')
            while page := ids.fetchmany(PAGE):
                # Sorting by ASE, or a limit without bounds, would go through all rows for each page.
                rows = database.select([('id', '>=', page[0][0]), ('id', '<=', page[-1][0])])
                yield from sorted(rows, key=attrgetter('id'))
    except sqlite3.DatabaseError as error:
        raise ValueError(f'{path} is no SQLite file or damaged ({error}): copy it again') from error


def _row_entry(row: Any, path: Path, named: set[str]) -> RawFrame:
    data = row.data
    info = {**{key: value for key, value in data.items() if key in named}, **row.key_value_pairs}
    values = {name: row[name] for name in (*RESULTS, *NATIVE) if name in row}
    record = data.get(RECORD_KEY)
    if record:
        info = {key: value for key, value in info.items() if key not in SEARCHABLE}
    return RawFrame(
        row.numbers,
        row.positions,
        row.cell,
        row.pbc,
        {**info, **{name: value for name, value in values.items() if name not in COLUMNS}},
        {name: value for name, value in values.items() if name in COLUMNS},
        f'row {row.id} of {path}',
        record if isinstance(record, dict) else None,
        (row.get('calculator'), row.get('calculator_parameters') or {}),
    )


def _pairs(frame: Frame) -> dict[str, Any]:
    values = {name: _searchable(getattr(frame, name)) for name in SEARCHABLE}
    return {name: value for name, value in values.items() if value is not None}


def _searchable(text: str) -> str | int | float | bool | None:
    """A text as ASE lets one search for it: what looks like a number is one. The record has the text itself."""
    from ase.db.core import convert_str_to_int_float_bool_or_str

    value: str | int | float | bool = convert_str_to_int_float_bool_or_str(text)
    try:
        return value if value != '' and (isinstance(value, str) or math.isfinite(value)) else None
    except OverflowError:  # more digits than a float has
        return None


# -- trajectories ------------------------------------------------------------------------------------------------------


def write_trajectory(frames: Iterable[Frame], path: Path | str) -> int:
    """Write frames to a new ASE trajectory, as they stream in; it replaces a file of this name at the end.

    :return: number of frames written.
    :raises ValueError: for no frames.
    """
    from ase.io.trajectory import TrajectoryWriter

    count = 0
    with replacing(Path(path)) as temporary, TrajectoryWriter(temporary) as trajectory:
        for frame in at_least_one(frames):
            atoms = _to_atoms(frame)
            atoms.info[RECORD_KEY] = _record(frame)
            trajectory.write(atoms)
            _release(atoms)
            count += 1
    return count


def read_trajectory(path: Path | str, declaration: LabelDeclaration | None = None) -> Iterator[Frame]:
    """Read frames from an ASE trajectory, one at a time.

    Values are taken from the calculator and from ``atoms.info``.

    :param declaration: what the labels mean, where aiida-alpot did not write them.
    :raises ValueError: for what is no trajectory, and as :func:`~.extxyz.read_extxyz`.
    """
    path = Path(path)
    interpreter = Interpreter(declaration or LabelDeclaration(), _own_frame, ase_units=True)
    return interpreter.frames(_read_trajectory(path), str(path))


def _read_trajectory(path: Path) -> Iterator[RawFrame]:
    from ase.io.trajectory import TrajectoryReader

    with _damage_named(path):
        trajectory = TrajectoryReader(path)
    with trajectory:
        for index in range(len(trajectory)):
            with _damage_named(path):
                atoms = trajectory[index]
            entry = _atoms_entry(atoms, f'frame {index} of {path}')
            _release(atoms)
            yield entry


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Give what ASE raises for a truncated or foreign trajectory one name."""
    try:
        yield
    except (OSError, ValueError, EOFError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f'{path} is no trajectory of ASE, cut off or damaged ({error}): copy it again') from error


def _atoms_entry(atoms: Atoms, where: str) -> RawFrame:
    results = {} if atoms.calc is None else {name: x for name, x in atoms.calc.results.items() if name in RESULTS}
    info = {key: value for key, value in atoms.info.items() if key != RECORD_KEY}
    clash = sorted(key for key in info if key in results and not np.array_equal(info[key], results[key]))
    if clash:
        raise ValueError(f'{where}: {", ".join(clash)} is one thing in `info` and another in the calculator')
    columns = {name: array for name, array in atoms.arrays.items() if name not in ('numbers', 'positions')}
    record = atoms.info.get(RECORD_KEY)
    return RawFrame(
        atoms.numbers,
        atoms.positions,
        atoms.cell.array,
        atoms.pbc,
        {**info, **{name: value for name, value in results.items() if name not in COLUMNS}},
        {**columns, **{name: value for name, value in results.items() if name in COLUMNS}},
        where,
        record if isinstance(record, dict) else None,
        ('', {}) if atoms.calc is None else (atoms.calc.name, dict(atoms.calc.parameters)),
    )


# -- both --------------------------------------------------------------------------------------------------------------


def _to_atoms(frame: Frame) -> Atoms:
    """The frame with labels in a calculator, and of its user arrays those that ASE keeps as they are."""
    kept = {
        name: array
        for name, array in frame.arrays.items()
        if name in NATIVE and (array.dtype.kind, array.shape[1:]) == NATIVE[name]
    }
    return frame.replace(arrays=kept).to_atoms()


def _release(atoms: Atoms) -> None:
    """Let go of a calculator: those of ASE refer to themselves, and would stay until garbage is collected."""
    if atoms.calc is not None:
        vars(atoms.calc).clear()


def _record(frame: Frame) -> dict[str, Any]:
    values = {}
    if frame.stress is not None and not np.array_equal(frame.stress, frame.stress.T):
        values['stress'] = np.array(frame.stress)
    arrays = {name: np.array(array) for name, array in frame.arrays.items()}
    return make_record(frame, labels=list(frame.labels), values=values, arrays=arrays)


def _own_frame(raw: RawFrame) -> Frame | None:
    """The frame that was written here."""
    if not raw.record:
        return None
    try:
        given = {name: raw.value(name, name) for name in raw.record.get('labels', ())}
        values: dict[str, Any] = {**given, **raw.record.get('values', {})}
        if 'stress' in values and np.shape(values['stress']) == (6,):
            values['stress'] = voigt_6_to_full_3x3_stress(values['stress'])
        return read_record(raw, values, raw.record.get('arrays', {}))
    except (AttributeError, TypeError, ValueError):
        # Another program left something of the record: it is not what was written here.
        return None
