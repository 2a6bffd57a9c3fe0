"""The level of theory of a label: which labels may stand in one data set, and which label answers for which structure.

The level of a frame is one text, ``<base>`` or ``<base>[<detail>,...]``:

- the base is what all frames of a data set have in common: the settings of a code as ``<code>-<16 hex digits>``, or the
  name that a user gave, such as ``VASP PBE 520 eV``;
- a detail ``Si:1a2b3c4d5e6f`` is the pseudopotential of one element of the frame, by the start of its MD5;
- a detail ``+isolated`` says that the frame was treated in a way of its own.

Frames name the pseudopotentials of their own elements only. So the label of a silicon crystal is the same whether it
was bought for a campaign on Si or on Si and Ge, while it is known that Ge of two pseudopotentials cannot be mixed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

HEX_DIGITS = 16
"""Length of the hash of settings in a base."""

MD5_DIGITS = 12
"""Length of what is kept of the MD5 of a pseudopotential."""

_TEXT = re.compile(r'(?P<base>[^\[\]]+)(?:\[(?P<details>[^\[\]]+)\])?')


@dataclass(frozen=True)
class LevelOfTheory:
    """Level of theory of one frame, or of all frames of a campaign.

    :param base: the settings, or the name of what is not known in detail; without square brackets and control
        characters.
    :param potentials: MD5 of the pseudopotential of each element, of which the first 12 digits count.
    :param treatment: name of what was done in another way for this frame than for the others, empty for nothing.
    :raises ValueError: for a base or a treatment that the text could not hold.
    """

    base: str
    potentials: Mapping[str, str] = field(default_factory=dict)
    treatment: str = ''

    def __post_init__(self) -> None:
        if not self.base.strip() or self.base != self.base.strip() or not re.fullmatch(r'[^\[\]\x00-\x1f]+', self.base):
            raise ValueError(
                f'the level of theory {self.base!r} must be a name without square brackets, control characters and '
                'blanks around it'
            )
        if not re.fullmatch(r'[\w-]*', self.treatment):
            raise ValueError(f'the treatment {self.treatment!r} must be a word')
        short = {symbol: self.potentials[symbol][:MD5_DIGITS] for symbol in sorted(self.potentials)}
        object.__setattr__(self, 'potentials', short)

    def __str__(self) -> str:
        details = [f'{symbol}:{md5}' for symbol, md5 in self.potentials.items()]
        if self.treatment:
            details.append(f'+{self.treatment}')
        return f'{self.base}[{",".join(details)}]' if details else self.base

    @classmethod
    def parse(cls, text: str) -> LevelOfTheory:
        """Level of theory of a text.

        :raises ValueError: for a text that is not one.
        """
        match = _TEXT.fullmatch(text)
        if match is None:
            raise ValueError(f'{text!r} is no level of theory: a name, with details in square brackets after it or not')
        details = (match['details'] or '').split(',') if match['details'] else []
        treatments = [detail[1:] for detail in details if detail.startswith('+')]
        potentials = dict(detail.partition(':')[::2] for detail in details if not detail.startswith('+'))
        if len(treatments) > 1 or not all(potentials.values()):
            raise ValueError(f'the details of the level of theory {text!r} are not understood')
        return cls(match['base'], potentials, ''.join(treatments))

    def of(self, symbols: Iterable[str], treatment: str = '') -> LevelOfTheory:
        """The level of a frame of these elements.

        :raises ValueError: where an element has no pseudopotential although others have.
        """
        wanted = set(symbols)
        missing = sorted(wanted - set(self.potentials))
        if self.potentials and missing:
            raise ValueError(f'the level of theory {self} has no pseudopotential of {", ".join(missing)}')
        return LevelOfTheory(
            self.base, {symbol: md5 for symbol, md5 in self.potentials.items() if symbol in wanted}, treatment
        )


def fingerprint(code: str, content: Mapping[str, Any]) -> str:
    """Base of a level of theory: the code, and a hash of the settings that change its labels.

    :param code: short name of the code.
    :param content: JSON-serialisable settings; their order does not matter.
    """
    text = json.dumps(content, sort_keys=True, separators=(',', ':'), allow_nan=False, default=_plain)
    return f'{code}-{hashlib.sha256(text.encode()).hexdigest()[:HEX_DIGITS]}'


def from_ase(name: str | None, parameters: Mapping[str, Any] | None) -> LevelOfTheory:
    """Level of theory of an ASE calculator, by its name and parameters.

    :raises ValueError: where the calculator has no name, or none that says what calculated.
    """
    if not name or name.lower() in ('unknown', 'calculator', 'singlepointcalculator'):
        raise ValueError(
            f'the calculator is named {name!r}, which does not say what the labels come from: declare their level of '
            'theory'
        )
    return LevelOfTheory(fingerprint(re.sub(r'[^\w.+-]', '_', name.lower()), dict(parameters or {})))


def check_one_level(levels: Iterable[str]) -> None:
    """Refuse labels that cannot be compared: of two bases, or of two pseudopotentials of one element.

    :param levels: levels of theory of labelled frames; an empty text stands for labels of unknown level.
    :raises ValueError: naming the levels.
    """
    known = [LevelOfTheory.parse(level) for level in set(levels) if level]
    bases = {level.base for level in known} | ({'unknown'} if '' in set(levels) else set())
    remedy = 'whose energies and forces cannot be mixed: label all frames, isolated atoms included, at one level'
    if len(bases) > 1:
        raise ValueError(f'the labels come from {len(bases)} levels of theory ({", ".join(sorted(bases))}), {remedy}')
    potentials: dict[str, set[str]] = defaultdict(set)
    for level in known:
        for symbol, md5 in level.potentials.items():
            potentials[symbol].add(md5)
    for symbol in sorted(potentials):
        if len(potentials[symbol]) > 1:
            found = ', '.join(sorted(potentials[symbol]))
            raise ValueError(f'the labels come from several pseudopotentials of {symbol} (MD5 {found}), {remedy}')


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return repr(value)
