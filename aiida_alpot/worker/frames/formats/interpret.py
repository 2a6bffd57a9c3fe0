"""From the entries of a file to frames: finds the labels, converts them, and refuses what is not stated."""

from __future__ import annotations

import math
import numbers
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from ..frame import ISOLATED_ATOM, PROPERTIES, SPLITS, Frame
from ..level_of_theory import LevelOfTheory, from_ase
from .declaration import VOIGT_ORDERS, LabelDeclaration
from .record import RECORD_KEY, RawFrame
from .styles import LABEL_KEYS, PER_ATOM, STYLES, VIRIALS

SPLIT_NAMES = {**{name: name for name in SPLITS}, 'valid': 'validation', 'val': 'validation'}

NEVER_METADATA = (LABEL_KEYS - {'charge'}) | {'free_energy', RECORD_KEY}
"""What is no label that was asked for must not come in by another door. A `charge` of the frame is its total charge."""

_SUSPECT = re.compile(r'(.*[_-])?(energy|force|forces|stress|virial|virials)', re.IGNORECASE)


class Interpreter:
    """Makes frames of the entries of one file; it remembers what the entries before had.

    :param declaration: what the user states.
    :param ase_units: whether the format has units of its own, those of ASE.
    :param own: what reads the frame from an entry that aiida-alpot wrote; see :func:`.record.read_record`.
    """

    def __init__(
        self,
        declaration: LabelDeclaration,
        own: Callable[[RawFrame], Frame | None],
        *,
        ase_units: bool = False,
    ) -> None:
        self.declaration = declaration
        self.ase_units = ase_units
        self.own = own
        self.style = declaration.style
        self.n_foreign = 0
        self.found: Counter[str] = Counter()
        """Properties of the foreign frames so far, isolated atoms included."""
        self.lacking: Counter[str] = Counter()
        """Foreign frames so far that should have a property and have not."""
        self.dropped = 0

    def frames(self, entries: Iterable[RawFrame], source: str) -> Iterator[Frame]:
        """Frames of all entries.

        :param source: name of the file, for messages.
        :raises ValueError: where the declaration does not say what an entry means, and where one makes no frame.
        """
        count = 0
        for entry in entries:
            try:
                frame = self.frame(entry)
            except ValueError as error:
                raise ValueError(f'{entry.where}: {error}') from error
            if frame is not None:
                count += 1
                yield frame
        self._finish(source, count)

    def frame(self, raw: RawFrame) -> Frame | None:
        """One frame; ``None`` where it is to be dropped."""
        own = self.own(raw)
        if own is not None:
            return restrict(own, self.declaration)
        keys = self._keys(raw)
        labels = {name: self._label(name, key, raw.value(name, key)) for name, key in keys.items()}
        self._check_declared(raw, keys)
        origin = self._origin(raw)
        if not self._is_complete(raw, labels, isolated=origin == ISOLATED_ATOM):
            self.dropped += 1
            return None
        return self._build(raw, labels, keys, origin)

    # -- which keys ----------------------------------------------------------------------------------------------------

    def _keys(self, raw: RawFrame) -> dict[str, str]:
        """Key of each property (or of the virials) that this entry has and that is wanted."""
        declared = self.declaration
        keys = {name: key for name, key in declared.keys.items() if raw.value(name, key) is not None}
        if declared.style or not declared.keys:
            style = declared.style or self._find_style(raw)
            found = self._keys_of_style(raw, style) if style else {}
            keys = {**{name: key for name, key in found.items() if name not in declared.keys}, **keys}
        if declared.from_virials:
            keys.pop('stress', None)
        elif 'stress' in keys:
            keys.pop(VIRIALS, None)
        return keys

    def _candidates(self, raw: RawFrame, style: str) -> dict[str, list[str]]:
        """Keys of one style that this entry has, by property."""
        wanted = {name: keys for name, keys in STYLES[style].keys.items() if self._wants(name)}
        # Only in its own place: `charge` is a label as a column, and the total charge in the comment line.
        places = {name: raw.columns if name in PER_ATOM else raw.info for name in wanted}
        found = {name: [key for key in keys if places[name].get(key) is not None] for name, keys in wanted.items()}
        return {name: present for name, present in found.items() if present}

    def _wants(self, name: str) -> bool:
        return self.declaration.takes('stress' if name == VIRIALS else name)

    def _keys_of_style(self, raw: RawFrame, style: str) -> dict[str, str]:
        candidates = self._candidates(raw, style)
        for name, present in candidates.items():
            if len(present) > 1 and name not in self.declaration.keys:
                raise ValueError(
                    f'the {name} may be {" or ".join(map(repr, present))}: say which with `keys`, such as '
                    f'{{{name!r}: {present[0]!r}}}, together with the `style` of the others'
                )
        return {name: present[0] for name, present in candidates.items()}

    def _find_style(self, raw: RawFrame) -> str | None:
        """The one set of keys that this entry follows; the other entries must follow it too."""
        present = {name: {key for keys in self._candidates(raw, name).values() for key in keys} for name in STYLES}
        if not any(present.values()):
            self._refuse_suspects(raw)
            return None
        # `plain` and `metatrain` share keys: the larger set counts, the first of equal ones.
        largest = [name for name in present if not any(present[name] < other for other in present.values())]
        distinct: dict[frozenset[str], str] = {}
        for name in largest:
            distinct.setdefault(frozenset(present[name]), name)
        if len(distinct) > 1:
            found = ' and '.join(f'{", ".join(sorted(keys))} (style {name!r})' for keys, name in distinct.items())
            choice = ' or '.join(f'style={name!r}' for name in distinct.values())
            raise ValueError(f'there are labels under two sets of keys, {found}: say which ones to take, {choice}')
        (style,) = distinct.values()
        if self.style and STYLES[self.style].key('energy') != STYLES[style].key('energy'):
            raise ValueError(
                f'its labels are under the keys of style {style!r}, those of frames before it under the keys of style '
                f'{self.style!r}: say which ones to take, style={self.style!r} or style={style!r}'
            )
        self.style = style
        return style

    def _refuse_suspects(self, raw: RawFrame) -> None:
        """Labels under keys that nobody named would be left out without a word."""
        suspects = _suspects(raw)
        if suspects and self.declaration.properties is None and self.style is None:
            raise ValueError(
                f'{", ".join(map(repr, suspects))} may be labels, under keys that no style has: name those to take '
                f"with `keys`, such as {{'energy': {suspects[0]!r}}}, or take none with properties=()"
            )

    # -- what has to be stated -----------------------------------------------------------------------------------------

    def _check_declared(self, raw: RawFrame, keys: dict[str, str]) -> None:
        """Refuse labels of which something is not stated, all in one message."""
        needs = list(self._needs(raw, keys))
        if not needs:
            return
        found = ', '.join(f'{name} ({key!r})' for name, key in keys.items())
        changed = (
            'It carries the record of a frame that aiida-alpot wrote, but was changed since. ' if raw.record else ''
        )
        raise ValueError(
            f'what its labels mean has to be declared. It has {found}. {changed}State: {"; ".join(needs)}. '
            'Or take fewer labels with `properties`, none with properties=()'
        )

    def _needs(self, raw: RawFrame, keys: dict[str, str]) -> Iterator[str]:
        declared = self.declaration
        if keys and not declared.level_of_theory:
            try:
                _level_of_calculator(raw)
            except ValueError as error:
                yield f'level_of_theory, the name of what calculated them, e.g. "VASP PBE 520 eV" ({error})'
        if 'energy' in keys and declared.energies is None:
            yield (
                "energies='total' if they are absolute total energies, on one scale with those of isolated atoms and "
                "of other data; energies='relative' together with reference_energies (eV an atom of each element) if "
                'something was subtracted'
            )
        if keys and 'energy' not in keys and declared.takes('energy') and not declared.keys:
            energies = [key for key in _suspects(raw) if key.lower().endswith('energy')]
            if energies:
                example = {'energy': energies[0], **keys}
                yield f'which of {", ".join(map(repr, energies))} is the energy, if any, with `keys`, such as {example}'
        if VIRIALS in keys and not declared.from_virials:
            yield f'`virials`, to make the stress of {keys[VIRIALS]!r} (stress = -virial / volume)'
        if self.ase_units:
            return
        if 'stress' in keys and declared.stress_unit is None:
            yield "stress_unit (e.g. 'eV/A^3', 'GPa', 'kbar') and stress_sign ('tension' as in ASE, or 'pressure')"
        if 'dipole' in keys and declared.dipole_unit is None:
            yield "dipole_unit ('e A', 'e Bohr' or 'Debye')"

    # -- frames that lack labels ---------------------------------------------------------------------------------------

    def _is_complete(self, raw: RawFrame, labels: dict[str, Any], *, isolated: bool) -> bool:
        """Whether the frame is to be taken; keeps the counts that the next frames are compared with."""
        wanted = {'energy'} if isolated else {'energy', 'forces'}
        lacks = sorted(name for name in wanted if self.declaration.takes(name) and name not in labels)
        if self.declaration.missing == 'refuse':
            for name in ('energy', 'forces'):
                self._refuse_missing(raw, name, labels, name in lacks)
        self.n_foreign += 1
        self.found.update(list(labels))
        self.lacking.update(lacks)
        return not (lacks and self.declaration.missing == 'drop')

    def _refuse_missing(self, raw: RawFrame, name: str, labels: dict[str, Any], lacks: bool) -> None:
        remedy = (
            "missing='drop' leaves frames without energy or forces out, missing='keep' takes all with what they have"
        )
        if lacks and self.found[name]:
            raise ValueError(
                f'it has no {name}, which {self.found[name]} of the {self.n_foreign} frames before it have: {remedy}'
            )
        if lacks and name == 'energy' and self.declaration.energies:
            keys = ', '.join(map(repr, raw.keys())) or 'none'
            raise ValueError(
                f'it has no energy, although `energies` declares what they are. Its keys are: {keys}. Name the one of '
                f"the energy with `keys`, such as {{'energy': 'dft_energy'}}, or: {remedy}"
            )
        if name in labels and self.lacking[name]:
            raise ValueError(
                f'it has {name}, which {self.lacking[name]} of the {self.n_foreign} frames before it lack: {remedy}'
            )

    def _finish(self, source: str, count: int) -> None:
        """What can only be said when the whole file was read."""
        if not count and not self.dropped:
            raise ValueError(f'{source} holds no frames')
        if not count:
            raise ValueError(
                f"all {self.dropped} frames of {source} lack energy or forces, and missing='drop' left them out: "
                "take them with missing='keep'"
            )
        if self.dropped:
            warnings.warn(
                f'{self.dropped} of the frames of {source} lack energy or forces and were left out', stacklevel=3
            )
        for name, key in self.declaration.keys.items():
            if self.n_foreign and not self.found[name]:
                raise ValueError(f'no frame of {source} has {key!r}, which `keys` names for its {name}')
        if self.n_foreign and self.declaration.energies and not self.found['energy']:
            raise ValueError(f'no frame of {source} has an energy, although `energies` declares what they are')

    # -- the frame -----------------------------------------------------------------------------------------------------

    def _build(self, raw: RawFrame, labels: dict[str, Any], keys: dict[str, str], origin: str) -> Frame:
        declared = self.declaration
        frame = Frame(
            raw.numbers,
            np.asarray(raw.positions) * declared.length_factor,
            np.asarray(raw.cell) * declared.length_factor,
            raw.pbc,
            origin=origin,
            split=self._split(raw, origin),
            metadata=self._metadata(raw, keys),
            arrays={key: self._array(raw, key) for key in declared.array_keys},
        )
        level = self._level(raw, frame) if labels else ''
        lineage = self._lineage(raw, origin) or frame.frame_id[:16]
        return frame.replace(lineage=lineage, level_of_theory=level, **self._convert(frame, labels))

    def _label(self, name: str, key: str, value: Any) -> Any:
        """Numbers of a label, not converted yet."""
        label = _read_label(name, key, value)
        if name not in ('stress', VIRIALS):
            return label
        if label.shape == (6,):
            return label[list(VOIGT_ORDERS[self.declaration.voigt_order])].reshape(3, 3)
        if label.shape not in ((9,), (3, 3)):
            raise ValueError(f'the {name} under {key!r} has shape {label.shape}, expected (6,), (9,) or (3, 3)')
        return label.reshape(3, 3)

    def _convert(self, frame: Frame, labels: dict[str, Any]) -> dict[str, Any]:
        """Labels in our units."""
        declared = self.declaration
        converted = dict(labels)
        if 'energy' in labels:
            converted['energy'] = labels['energy'] * declared.energy_factor + self._references(frame)
        if 'forces' in labels:
            converted['forces'] = labels['forces'] * declared.force_factor
        if 'stress' in labels:
            converted['stress'] = labels['stress'] * declared.stress_factor
        if 'dipole' in labels:
            converted['dipole'] = labels['dipole'] * declared.dipole_factor
        if VIRIALS in converted:
            virials = converted.pop(VIRIALS)
            if frame.volume == 0:
                raise ValueError('it has virials but no cell of three vectors, so that they give no stress')
            converted['stress'] = -virials * declared.energy_factor / frame.volume
        return converted

    def _references(self, frame: Frame) -> float:
        """What was subtracted from the energy of the frame, eV."""
        if self.declaration.energies != 'relative':
            return 0.0
        symbols = [chemical_symbols[z] for z in frame.numbers]
        missing = sorted(set(symbols) - set(self.declaration.reference_energies))
        if missing:
            raise ValueError(f'`reference_energies` has no {", ".join(missing)}: add what an atom of it had subtracted')
        return math.fsum(self.declaration.reference_energies[symbol] for symbol in symbols)

    def _level(self, raw: RawFrame, frame: Frame) -> str:
        if not self.declaration.level_of_theory:
            return str(_level_of_calculator(raw))
        return _declared_level(frame, self.declaration)

    def _origin(self, raw: RawFrame) -> str:
        declared = self.declaration
        if len(raw.numbers) == 1 and raw.info.get('config_type') == 'IsolatedAtom':
            return ISOLATED_ATOM
        if not declared.origin_key:
            return self._recorded(raw, 'origin') or declared.origin
        return _text(declared.origin_key, self._required(raw, 'origin_key'))

    def _split(self, raw: RawFrame, origin: str) -> str:
        key = self.declaration.split_key
        if not key or (origin == ISOLATED_ATOM and key not in raw.info):
            return self._recorded(raw, 'split')
        value = _text(key, self._required(raw, 'split_key'))
        if value not in SPLIT_NAMES:
            raise ValueError(f'{key!r} is {value!r}, expected a split: one of {", ".join(SPLIT_NAMES)}')
        return SPLIT_NAMES[value]

    def _lineage(self, raw: RawFrame, origin: str) -> str:
        key = self.declaration.lineage_key
        if not key or (origin == ISOLATED_ATOM and key not in raw.info):
            return self._recorded(raw, 'lineage')
        return _text(key, self._required(raw, 'lineage_key'))

    def _required(self, raw: RawFrame, option: str) -> Any:
        key = getattr(self.declaration, option)
        if key not in raw.info:
            known = ', '.join(map(repr, raw.info)) or 'none'
            raise ValueError(f'it has no {key!r}, which `{option}` names. Its keys are: {known}')
        return raw.info[key]

    def _recorded(self, raw: RawFrame, name: str) -> str:
        """Provenance that aiida-alpot wrote stays true of a structure whose labels were changed."""
        value = (raw.record or {}).get(name, '')
        return value if isinstance(value, str) else ''

    def _metadata(self, raw: RawFrame, keys: dict[str, str]) -> dict[str, Any]:
        declared = self.declaration
        recorded = (raw.record or {}).get('metadata', {})
        if declared.metadata_keys is not None:
            kept = [key for key in declared.metadata_keys if key in raw.info]
        else:
            meant = {*keys.values(), declared.lineage_key, declared.origin_key, declared.split_key}
            kept = [key for key in raw.info if key not in meant and key not in NEVER_METADATA]
        return {**recorded, **{key: _plain(raw.info[key]) for key in kept}}

    def _array(self, raw: RawFrame, key: str) -> np.ndarray:
        if key not in raw.columns:
            known = ', '.join(map(repr, raw.columns)) or 'none'
            raise ValueError(f'it has no column {key!r}, which `array_keys` names. Its columns are: {known}')
        return raw.columns[key]


def restrict(frame: Frame, declaration: LabelDeclaration) -> Frame:
    """A frame that needs no declaration, as far as a declaration speaks of it.

    Labels that are not wanted are left out. A declared level of theory is given to labels that have none.

    :raises ValueError: where the labels have another level of theory than the declared one.
    """
    unwanted = [name for name in PROPERTIES if getattr(frame, name) is not None and not declaration.takes(name)]
    if unwanted:
        frame = frame.replace(**dict.fromkeys(unwanted))
    if not frame.labels:
        return frame.replace(level_of_theory='') if unwanted else frame
    if not declaration.level_of_theory:
        return frame
    declared = _declared_level(frame, declaration)
    if frame.level_of_theory in ('', declared):
        return frame if frame.level_of_theory else frame.replace(level_of_theory=declared)
    if LevelOfTheory.parse(frame.level_of_theory).base == declaration.level_of_theory:
        return frame
    raise ValueError(
        f'its labels are of the level of theory {frame.level_of_theory!r}, and {declared!r} is declared: leave the '
        'declaration out, or state the level that the file names'
    )


def _declared_level(frame: Frame, declaration: LabelDeclaration) -> str:
    level = LevelOfTheory.parse(declaration.level_of_theory)
    return str(level.of((chemical_symbols[z] for z in frame.numbers), level.treatment))


def _level_of_calculator(raw: RawFrame) -> LevelOfTheory:
    """Level of theory that the file itself names.

    :raises ValueError: where it names none. A name without parameters is none: it is what readers of output files
        leave, whatever the settings were.
    """
    name, parameters = raw.calculator
    if not name:
        raise ValueError('the file does not tell')
    if not parameters:
        raise ValueError(f'the file names the calculator {name!r} without its parameters')
    return from_ase(name, parameters)


def _read_label(name: str, key: str, value: Any) -> Any:
    """Numbers of a label, not converted yet.

    :raises ValueError: for what is no numbers, not finite, or of a shape that the label cannot have.
    """
    try:
        array = np.asarray(value)
        if array.dtype.kind not in 'iuf':
            raise ValueError
    except ValueError:
        raise ValueError(f'{key!r} is {value!r}, expected the numbers of the {name}') from None
    if not np.all(np.isfinite(array)):
        raise ValueError(f'the {name} under {key!r} holds values that are not finite: correct or remove this frame')
    array = array.astype(np.float64)
    if name == 'energy':
        if array.size != 1:
            raise ValueError(f'the energy under {key!r} has shape {array.shape}, expected one number')
        return float(array.reshape(()))
    if name in ('charges', 'magmoms') and array.ndim == 2 and array.shape[1] == 1:
        return array[:, 0]
    return array


def _suspects(raw: RawFrame) -> list[str]:
    """Keys that look like those of labels."""
    return [key for key in raw.keys() if _SUSPECT.fullmatch(key) and key not in LABEL_KEYS]  # noqa: SIM118 -- no mapping


def _text(key: str, value: Any) -> str:
    """A value of the file as a text that names something.

    :raises ValueError: where it is a list or empty.
    """
    text = '' if isinstance(value, list | dict) or np.ndim(value) else str(value)
    if not text:
        raise ValueError(f'{key!r} is {value!r}, expected one word or number')
    return text


def _plain(value: Any) -> Any:
    """A value of the file as JSON has it; what is not finite becomes null."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, numbers.Real) and not isinstance(value, bool | int) and not math.isfinite(value):
        return None
    return value
