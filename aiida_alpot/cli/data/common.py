"""What the commands on data sets share."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
from aiida.cmdline.params import types
from aiida.cmdline.utils import decorators

if TYPE_CHECKING:
    from aiida_alpot.worker.frames import FrameStore

DATASET = types.DataParamType(sub_classes=('aiida.data:alpot.pes',))
"""A data set by its PK, UUID or label."""

ARCHIVE = 'archive'
"""Format of an AiiDA archive, beside the formats of frames."""


def with_profile(function: Callable[..., Any]) -> Callable[..., Any]:
    """Run a command in the loaded profile, and turn what it refuses into one sentence without a traceback."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        from aiida.common.exceptions import ConfigurationError, ProfileConfigurationError

        try:
            return decorators.with_dbenv()(function)(*args, **kwargs)
        except (ConfigurationError, ProfileConfigurationError) as exception:
            raise click.ClickException(f'{exception}. Make a profile with `aiida-alpot setup`.') from exception
        except (ValueError, OSError) as exception:
            raise click.ClickException(sentence(exception)) from exception

    return wrapped


def sentence(exception: BaseException | str) -> str:
    """What an exception says, with a full stop, and a capital letter where it starts with a word and not a name."""
    text = str(exception) or type(exception).__name__
    first = text.split()[0]
    text = text[0].upper() + text[1:] if first.isalpha() else text
    return text if text.endswith('.') else f'{text}.'


@contextmanager
def quiet_archives() -> Iterator[None]:
    """Keep AiiDA's account of each step of an import or export from the terminal."""
    from aiida.tools.archive.create import EXPORT_LOGGER
    from aiida.tools.archive.imports import IMPORT_LOGGER

    levels = {logger: logger.level for logger in (EXPORT_LOGGER, IMPORT_LOGGER)}
    try:
        for logger in levels:
            logger.setLevel(logging.WARNING)
        yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)


def numbered(count: int, noun: str) -> str:
    """A count with its noun, such as `1 data set` and `3 frames`."""
    return f'{count} {noun}' if count == 1 else f'{count} {noun}s'


def counts_text(counts: Mapping[str, int]) -> str:
    """Counts by name as `train 800, test 100`, or `none`."""
    return ', '.join(f'{name} {count}' for name, count in counts.items()) or 'none'


def table(rows: Iterable[Sequence[Any]], headings: Sequence[str] = ()) -> str:
    """A table in plain text; columns of which all cells are numbers stand on the right."""
    lines = [[str(cell) for cell in row] for row in rows]
    right = [all(_is_number(cell) for cell in column) for column in zip(*lines, strict=True)]
    widths = [max(map(len, column)) for column in zip(*[headings] if headings else [], *lines, strict=True)]
    if headings:
        lines = [list(headings), ['-' * width for width in widths], *lines]
    aligned = [
        [cell.rjust(width) if on_right else cell.ljust(width) for cell, width, on_right in zip(*line, strict=True)]
        for line in ((cells, widths, right) for cells in lines)
    ]
    return '\n'.join('  '.join(line).rstrip() for line in aligned)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text == '-'
    return True


def chosen_frames(store: FrameStore, splits: Sequence[str], origins: Sequence[str]) -> list[int] | None:
    """Indices of the frames of some splits and origins; nothing where all frames are meant.

    :raises ValueError: where no frame is left, naming what there is.
    """
    import numpy as np

    keep = np.ones(len(store), dtype=np.bool_)
    for name, wanted in (('split', splits), ('origin', origins)):
        if wanted:
            texts, codes = store.categories(name)
            unknown = sorted(set(wanted) - set(texts))
            if unknown:
                there = ', '.join(sorted(filter(None, texts))) or 'none'
                raise ValueError(f'no frame has the {name} {", ".join(unknown)}; there are: {there}')
            keep &= np.isin(np.array(texts, dtype=np.str_)[codes], list(wanted))
    if not keep.any():
        raise ValueError('no frame is of these splits and of these origins')
    return np.flatnonzero(keep).tolist() if splits or origins else None
