"""The commands of a LAMMPS script, and what has to be known of some of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_MONTE_CARLO = ('atom/swap', 'gcmc', 'mol/swap', 'neighbor/swap', 'sgcmc', 'charge/regulation', 'hmc', 'widom', 'tfmc')


def script_commands(text: str) -> Iterator[str]:
    """LAMMPS' commands in a script, without empty lines and comments; ``&`` and triple quotes continue a line."""
    command = ''
    for line in text.splitlines():
        command += line.rstrip()
        if command.count('"""') % 2:
            command += '\n'
        elif command.endswith('&'):
            command = command[:-1] + ' '
        else:
            if command.strip() and not command.lstrip().startswith('#'):
                yield command
            command = ''
    if command.strip():
        raise ValueError('the LAMMPS script ends within a command: a line ends in "&", or triple quotes are not closed')


def external_fix(command: str) -> str | None:
    """ID of the fix that the committee serves, if the command defines it."""
    words = command.split()
    return words[1] if len(words) > 4 and words[0] == 'fix' and words[3:5] == ['external', 'pf/callback'] else None


def check_commands(commands: Sequence[str]) -> None:
    """Refuse scripts that cannot be executed here as they are meant."""
    if any(command.split()[0] == 'jump' for command in commands):
        raise ValueError(
            'the LAMMPS script uses `jump`, which alpot-md cannot follow: write the loop out, or use several runs'
        )
    n_fixes = sum(external_fix(command) is not None for command in commands)
    if n_fixes != 1:
        raise ValueError(
            f'the LAMMPS script defines {n_fixes} fixes of style `external pf/callback`, expected exactly one: '
            'add `fix alpot all external pf/callback 1 1` after the atoms are defined'
        )


def tries_states(commands: Sequence[str]) -> bool:
    """Whether the script lets LAMMPS evaluate states within a step that it may not accept: Monte Carlo moves."""
    return any(words[0] == 'fix' and words[3:4] and words[3] in _MONTE_CARLO for words in map(str.split, commands))


def thermostat(command: str) -> str | None:
    """ID of the fix, if the command defines a Nose-Hoover thermostat or barostat."""
    words = command.split()
    if len(words) > 3 and words[0] == 'fix' and words[3].split('/')[0] in ('nvt', 'npt', 'nph'):
        return words[1]
    return None


@dataclass(frozen=True)
class RunCommand:
    """A ``run`` that can be taken up again after it was interrupted.

    :param first: step at which it started.
    :param last: step at which it is to end.
    :param options: everything else.
    """

    first: int
    last: int
    options: tuple[str, ...]

    @classmethod
    def of(cls, command: str, step: int) -> RunCommand | None:
        """The command if it is a ``run`` of this kind, ``None`` where it cannot be taken up: ``run N every M ...``.

        :param step: at which it is issued.
        """
        words = command.partition('#')[0].split()
        if words[0] != 'run' or len(words) < 2 or not words[1].isdigit() or 'every' in words:
            return None
        options = [word for word in words[2:] if word != 'upto']
        last = int(words[1]) if 'upto' in words else step + int(words[1])
        for key in ('pre', 'post'):
            if key in options:
                del options[options.index(key) : options.index(key) + 2]
        return cls(step, last, tuple(options))

    @property
    def rest(self) -> str:
        """The command that goes on to its end; what ramps during the run does so as if it had not been interrupted."""
        words = list(self.options)
        for key, value in (('start', self.first), ('stop', self.last)):
            if key not in words:
                words += [key, str(value)]
        return f'run {self.last} upto {" ".join(words)}'


class Timer:
    """LAMMPS' ``timer timeout`` of the script, which an interruption switches off."""

    def __init__(self) -> None:
        self._limit: float | None = None
        self._every = '10'
        self._start = 0.0

    def note(self, command: str, now: float) -> None:
        """Take notice of a command.

        :param now: wall time, s.
        """
        words = command.partition('#')[0].split()
        if words[0] != 'timer':
            return
        if 'every' in words[:-1]:
            self._every = words[words.index('every') + 1]
        if 'timeout' in words[:-1]:
            self._limit, self._start = _seconds(words[words.index('timeout') + 1]), now

    def again(self, now: float) -> str:
        """The command that lets LAMMPS run again, with what is left of the time."""
        if self._limit is None:
            return 'timer timeout off'
        return f'timer timeout {max(1, round(self._limit - (now - self._start)))} every {self._every}'


def _seconds(text: str) -> float | None:
    """Seconds of LAMMPS' ``[[hours:]minutes:]seconds``; ``None`` for ``off``."""
    if text in ('off', 'unlimited') or text.startswith('-'):
        return None
    total = 0.0
    for part in text.split(':'):
        total = 60.0 * total + float(part)
    return total
