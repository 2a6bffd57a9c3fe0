"""Extended XYZ, the files that trainers read; every number survives to its last bit.

Beside the keys of a style each frame carries the record ``alpot`` (:mod:`.record`). A user array is a column of its own
name, or ``alpot_<name>`` where that name means something else in such files; arrays of more than two axes are laid out
row by row. The record says under ``arrays`` which column holds which array, of which kind (``f``, ``i``, ``b``) and
with which shape an atom.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np
from ase.calculators.calculator import all_properties
from ase.data import atomic_numbers, chemical_symbols

from aiida_alpot.worker import options

from ..frame import ISOLATED_ATOM, PROPERTIES, Frame
from .declaration import LabelDeclaration
from .files import at_least_one, open_text, readable, replacing
from .interpret import Interpreter
from .record import RECORD_KEY, RawFrame, make_record, read_record
from .styles import LABEL_KEYS, PER_ATOM, STYLES, Style

DEFAULT_STYLE = 'mace'

TAKEN_NAMES = LABEL_KEYS | {*all_properties, 'Z', 'symbols', 'move_mask', 'initial_charges', 'charge'}
"""Columns that mean something else to those who read such files."""

TENSOR_KEYS = ('stress', 'virial')
"""Keys of which ASE makes a 3 x 3 tensor, column by column."""

INT32 = np.iinfo(np.int32)
SHAPES = {'energy': (), 'forces': (3,), 'stress': (3, 3), 'charges': (), 'magmoms': (), 'dipole': (3,)}

KINDS = {'f': np.float64, 'i': np.int64, 'b': np.bool_}
LOGICAL = {'T': True, 'True': True, 'F': False, 'False': False}
POSITIONS = ('pos', 'positions')
SPECIES = ('species', 'symbols', 'Z', 'numbers')

Column = tuple[str, np.ndarray]


# -- writing -----------------------------------------------------------------------------------------------------------


def write_extxyz(frames: Iterable[Frame], path: Path | str, style: str = DEFAULT_STYLE) -> int:
    """Write frames as extended XYZ, as they stream in; the file appears once it is complete.

    Labels are in eV, eV/A, eV/A^3 (positive under tension), e, Bohr magnetons and e A, each only where the frame has
    it. Single atoms of origin ``isolated_atom`` with an energy get ``config_type=IsolatedAtom``, from which MACE takes
    its E0s. metatrain reads a label only if all frames of a file have it; in style ``metatrain`` those that lack
    forces, stress or other labels that some frame has get NaN, which its losses leave out.

    :param path: compressed where it ends in ``.gz``, ``.bz2`` or ``.xz``.
    :param style: the keys, one of :data:`~.styles.STYLES`.
    :return: number of frames written.
    :raises ValueError: for an unknown style, for no frames, and for what a style cannot express.
    """
    options.lookup(STYLES, style, 'style of extended XYZ')
    path = Path(path)
    with ExitStack() as stack:
        filled: tuple[str, ...] = ()
        if STYLES[style].fills:
            if isinstance(frames, Iterator):
                frames = _Spool(frames, stack.enter_context(TemporaryFile()))
            filled = _survey(frames)
        stream = stack.enter_context(open_text(stack.enter_context(replacing(path)), 'w'))
        count = 0
        for frame in at_least_one(frames):
            stream.write(_to_text(frame, style, filled))
            count += 1
    return count


class _Spool:
    """Frames of a stream, kept on disk to be gone through more than once."""

    def __init__(self, frames: Iterable[Frame], file: IO[bytes]) -> None:
        self.file = file
        for frame in frames:
            pickle.dump(frame, file)
        self.end = file.tell()

    def __iter__(self) -> Iterator[Frame]:
        self.file.seek(0)
        while self.file.tell() < self.end:
            yield pickle.load(self.file)


def _survey(frames: Iterable[Frame]) -> tuple[str, ...]:
    """The properties that any frame has.

    :raises ValueError: for what metatrain would fail on, or learn wrongly from, after it has started.
    """
    found: set[str] = set()
    without = None
    for index, frame in enumerate(frames):
        found.update(frame.labels)
        if frame.energy is None and without is None:
            without = index
        if frame.stress is not None and frame.volume == 0:
            raise ValueError(
                f'frame {index} has a stress but no cell of three vectors, which metatrain refuses: drop its stress'
            )
    if found and without is not None:
        raise ValueError(
            f'frame {without} has no energy, although there are labels: metatrain needs the energy of every frame (its '
            'composition model would become NaN); leave the frame out'
        )
    return tuple(name for name in PROPERTIES if name in found)


def _to_text(frame: Frame, style: str, filled: tuple[str, ...]) -> str:
    """One entry, with line breaks."""
    keys = STYLES[style]
    labels = {**{name: _nothing(name, len(frame)) for name in filled}, **frame.labels}
    columns: list[Column] = [(keys.key(name), labels[name]) for name in PER_ATOM if name in labels]
    layout = _lay_out(frame, columns)
    info = [f'{keys.key(name)}={_value(keys.key(name), labels[name])}' for name in labels if name not in PER_ATOM]
    if frame.origin == ISOLATED_ATOM and len(frame) == 1 and frame.energy is not None:
        # Without an energy MACE would take the marked atom for one of energy zero.
        info.append('config_type=IsolatedAtom')
    record = make_record(frame, style=style if frame.labels else '', labels=list(frame.labels), arrays=layout)
    comment = ' '.join([*_header(frame, columns), *info, _quote(record)])
    return '\n'.join([str(len(frame)), comment, *_rows(frame, columns), ''])


def _nothing(name: str, n_atoms: int) -> np.ndarray:
    return np.full(((n_atoms,) if name in PER_ATOM else ()) + SHAPES[name], np.nan)


def _lay_out(frame: Frame, columns: list[Column]) -> dict[str, dict[str, Any]]:
    """Add the user arrays to the columns, flattened.

    :return: for each array the name of its column, its kind and the shape of one atom's part.
    """
    layout = {}
    taken = [('species', frame.numbers), ('pos', frame.positions), *columns]
    used = {field for name, array in taken for field in _fields(name, array)}
    for name, array in frame.arrays.items():
        flat = array.reshape(len(frame), -1)
        column = f'alpot_{name}' if name in TAKEN_NAMES else name
        while used.intersection(_fields(column, flat)):
            column += '_'
        used.update(_fields(column, flat))
        columns.append((column, flat))
        layout[name] = {'column': column, 'kind': array.dtype.kind, 'shape': list(array.shape[1:])}
    return layout


def _fields(name: str, array: np.ndarray) -> list[str]:
    """Names that a column must not share with others: ASE numbers its parts, so that `a` of width two has `a1`."""
    width = _width(array)
    return [name, *(f'{name}{i}' for i in range(width if width > 1 else 0))]


def _width(array: np.ndarray) -> int:
    return int(np.prod(array.shape[1:], dtype=int))


def _header(frame: Frame, columns: list[Column]) -> list[str]:
    properties = ['species:S:1:pos:R:3', *(f'{name}:{_kind(array)}:{_width(array)}' for name, array in columns)]
    lattice = [f'Lattice="{_numbers(frame.cell)}"'] if frame.cell.any() else []
    return [*lattice, f'Properties={":".join(properties)}', f'pbc="{" ".join("FT"[int(flag)] for flag in frame.pbc)}"']


def _kind(array: np.ndarray) -> str:
    """Type of a column. Readers hold whole numbers in 32 bits: larger ones are written as texts."""
    if array.dtype.kind == 'i' and (array.min() < INT32.min or array.max() > INT32.max):
        return 'S'
    return {'f': 'R', 'i': 'I', 'b': 'L'}[array.dtype.kind]


def _numbers(values: Any) -> str:
    return ' '.join(map(repr, np.asarray(values, dtype=np.float64).ravel().tolist()))


def _value(key: str, value: Any) -> str:
    """A label of the comment line."""
    text = _numbers(np.transpose(value) if key in TENSOR_KEYS else value)
    return f'"{text}"' if np.ndim(value) else text


def _quote(record: dict[str, Any]) -> str:
    text = '_JSON ' + json.dumps(record, sort_keys=True, separators=(',', ':'))
    return f'{RECORD_KEY}="' + text.replace('\\', '\\\\').replace('"', '\\"') + '"'


def _rows(frame: Frame, columns: list[Column]) -> list[str]:
    rows = [[chemical_symbols[z]] for z in frame.numbers]
    for _, array in [('pos', frame.positions), *columns]:
        render: Callable[[Any], str] = _render_bool if array.dtype.kind == 'b' else repr
        for row, values in zip(rows, array.reshape(len(rows), -1).tolist(), strict=True):
            row.extend(map(render, values))
    return [' '.join(row) for row in rows]


def _render_bool(value: bool) -> str:
    return 'T' if value else 'F'


# -- reading -----------------------------------------------------------------------------------------------------------


def read_extxyz(path: Path | str, declaration: LabelDeclaration | None = None) -> Iterator[Frame]:
    """Read frames from extended or plain XYZ, one after the other.

    :param declaration: what the labels mean, where aiida-alpot did not write them.
    :raises ValueError: where an entry makes no valid frame, or has labels of which something is not stated; the message
        says which entry and what to do.
    """
    path = Path(path)
    interpreter = Interpreter(declaration or LabelDeclaration(), _own_frame)
    return interpreter.frames(_read_entries(path), str(path))


def _read_entries(path: Path) -> Iterator[RawFrame]:
    with readable(path), open_text(path, 'r') as stream:
        yield from _Parser(stream, str(path)).entries()


class _Parser:
    """Reads entries from an open text and knows at which line it is.

    ASE's reader first goes through the whole file, seeks backwards (which unpacks compressed files again each time),
    moves some labels into a calculator, and stops without a word at an empty line.
    """

    def __init__(self, stream: IO[str], name: str) -> None:
        self.stream, self.name = stream, name
        self.line = 0

    def entries(self) -> Iterator[RawFrame]:
        index = 0
        while header := self._next():
            if not header.strip():
                self._check_end()
                return
            where = f'frame {index} of {self.name} (line {self.line})'
            try:
                entry = self._entry(header, where)
            except ValueError as error:
                raise ValueError(f'{where}: {error}') from error
            yield entry
            index += 1

    def _next(self) -> str:
        self.line += 1
        return self.stream.readline()

    def _check_end(self) -> None:
        """Empty lines may only follow the last entry."""
        empty = self.line
        while line := self._next():
            if line.strip():
                raise ValueError(f'line {empty} of {self.name} is empty although more follows: remove it')

    def _entry(self, header: str, where: str) -> RawFrame:
        try:
            n_atoms = int(header)
        except ValueError:
            raise ValueError(f'expected a number of atoms, found {header.strip()[:60]!r}') from None
        if n_atoms < 1:
            raise ValueError(f'it has {n_atoms} atoms, expected at least one atom')
        info = _parse_comment(self._next())
        columns = _parse_columns(info.pop('Properties', 'species:S:1:pos:R:3'))
        rows = [self._row(n, n_atoms, columns) for n in range(n_atoms)]
        arrays = _convert_columns(rows, columns)
        cell = info.pop('Lattice', None)
        pbc = _parse_pbc(info.pop('pbc', cell is not None))
        record = info.pop(RECORD_KEY, None)
        return RawFrame(
            _numbers_of(arrays),
            _take(arrays, *POSITIONS),
            # The format writes vector after vector, ASE's parser fills columns.
            np.zeros((3, 3)) if cell is None else np.transpose(cell),
            pbc,
            info,
            arrays,
            where,
            record if isinstance(record, dict) else None,
        )

    def _row(self, n: int, n_atoms: int, columns: list[tuple[str, str, int]]) -> list[str]:
        line = self._next()
        if not line:
            raise ValueError(f'it is cut off: {n} of {n_atoms} atoms are there')
        row, width = line.split(), sum(count for _, _, count in columns)
        if len(row) != width:
            raise ValueError(f'line {self.line} has {len(row)} columns, expected {width}: {line.strip()[:60]!r}')
        return row


def _parse_comment(line: str) -> dict[str, Any]:
    """Values of a comment line; one without any ``key=value`` is a comment as people write it."""
    from ase.io.extxyz import key_val_str_to_dict  # half of what importing the frames would cost

    if '=' not in line:
        return {'comment': line.strip()} if line.strip() else {}
    try:
        info: dict[str, Any] = key_val_str_to_dict(line)
    except (IndexError, ValueError) as error:
        raise ValueError(f'the comment line {line.strip()[:60]!r} is not understood ({error})') from None
    for key in info:
        for known in ('Lattice', 'Properties', 'pbc'):
            if key.lower() == known.lower() and key != known:
                raise ValueError(f'{key!r} means nothing in extended XYZ: it is written {known!r}')
    return info


def _parse_pbc(value: Any) -> np.ndarray:
    """Periodicity along the three lattice vectors, given for each or for all."""
    pbc = np.asarray(value)
    if pbc.shape not in ((), (3,)) or not np.isin(pbc, (0, 1)).all():
        raise ValueError(f'pbc is {value!r}, expected T or F, once or three times')
    return np.broadcast_to(pbc.astype(np.bool_), 3)


def _parse_columns(text: Any) -> list[tuple[str, str, int]]:
    """Name, type and width of each column."""
    fields = str(text).split(':')
    names, kinds, widths = fields[::3], fields[1::3], fields[2::3]
    valid = len(fields) % 3 == 0 and all(kind in tuple('SRIL') for kind in kinds) and all(map(str.isdigit, widths))
    if not valid or len(set(names)) < len(names):
        raise ValueError(f'Properties={text} is not understood: expected name:type:columns, types S, R, I or L')
    return list(zip(names, kinds, map(int, widths), strict=True))


def _convert_columns(rows: list[list[str]], columns: list[tuple[str, str, int]]) -> dict[str, np.ndarray]:
    arrays, start = {}, 0
    for name, kind, width in columns:
        texts = [row[start] for row in rows] if width == 1 else [row[start : start + width] for row in rows]
        arrays[name] = _cast(name, texts, kind)
        start += width
    return arrays


def _cast(name: str, texts: list[Any], kind: str) -> np.ndarray:
    """Values of a column of type S, R, I or L."""
    if kind == 'S':
        return np.array(texts, dtype=np.str_)
    try:
        if kind == 'L':
            return np.vectorize(LOGICAL.__getitem__, otypes=[np.bool_])(np.array(texts))
        return np.array(texts, dtype={'R': np.float64, 'I': np.int64}[kind])
    except (KeyError, ValueError, OverflowError):
        what = {'R': 'number', 'I': 'whole number', 'L': 'T or F'}[kind]
        raise ValueError(f'the column {name!r} holds something that is no {what}') from None


def _take(arrays: dict[str, np.ndarray], *names: str) -> np.ndarray:
    """Remove and return the column that has one of several names."""
    present = [name for name in names if name in arrays]
    if len(present) != 1:
        raise ValueError(f'expected one column {" or ".join(map(repr, names))}, found {present or "none"}')
    return arrays.pop(present[0])


def _numbers_of(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Atomic numbers."""
    species = _take(arrays, *SPECIES)
    if species.dtype.kind != 'U':
        return species
    symbols = [text.capitalize() for text in species.tolist()]
    unknown = sorted({symbol for symbol in symbols if atomic_numbers.get(symbol, 0) == 0})
    if unknown:
        raise ValueError(f'{", ".join(map(repr, unknown))} is no chemical symbol')
    return np.array([atomic_numbers[symbol] for symbol in symbols], dtype=np.int32)


def _own_frame(raw: RawFrame) -> Frame | None:
    """The frame that :func:`write_extxyz` wrote."""
    if not raw.record:
        return None
    try:
        keys = STYLES[raw.record.get('style', DEFAULT_STYLE)]
        values = {name: _own_label(raw, name, keys) for name in raw.record.get('labels', ())}
        arrays = {name: _unfold(raw, layout) for name, layout in raw.record.get('arrays', {}).items()}
    except (AttributeError, KeyError, TypeError, ValueError):
        # Another program left something of the record: it is not what was written here.
        return None
    return read_record(raw, values, arrays)


def _own_label(raw: RawFrame, name: str, keys: Style) -> np.ndarray:
    value = raw.value(name, keys.key(name))
    return value if name in PER_ATOM else np.reshape(value, SHAPES[name])


def _unfold(raw: RawFrame, layout: dict[str, Any]) -> np.ndarray:
    """A user array from its column."""
    column = raw.columns[layout['column']]
    return column.astype(KINDS[layout['kind']]).reshape(len(raw.numbers), *layout['shape'])
