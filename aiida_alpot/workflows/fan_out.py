"""Many children of one kind, never more than a given number in flight."""

from __future__ import annotations

from typing import Any

from aiida import orm
from aiida.engine import Process, WorkChain

REPORTS = 10
"""How often a work chain reports its progress."""


def validate_positive(node: Any, _: Any) -> str | None:
    """Refuse a number that is not above zero."""
    if node is not None and node.value <= 0:
        return f'must be above zero, found {node.value}'
    return None


def validate_not_negative(node: orm.Int, _: Any) -> str | None:
    """Refuse a number below zero."""
    return f'must be at least 0, found {node.value}' if node.value < 0 else None


def how_it_ended(process: orm.ProcessNode) -> str:
    """The message of the exit code of a process or, where it has none, the state that it ended in."""
    return process.exit_message or f'the process ended in state {process.process_state.value}'


class FanOutWorkChain(WorkChain):
    """A work chain that runs a list of independent children with back-pressure.

    A subclass sets ``self.ctx.n_tasks``, implements :meth:`build_task`, and has
    ``while_(cls.has_tasks)(cls.run_tasks)`` in its outline. After the loop :meth:`children` gives the children in the
    order of their tasks. Whenever the child that has run longest ends, every free place is taken by the next task. The
    context holds process identifiers only.
    """

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.input(
            'max_concurrent',
            valid_type=orm.Int,
            default=lambda: orm.Int(2),
            validator=validate_positive,
            help='Largest number of child processes in flight at the same time.',
        )

    def build_task(self, index: int) -> tuple[type[Process], dict[str, Any]]:
        """Process class and inputs of one task."""
        raise NotImplementedError

    def has_tasks(self) -> bool:
        """Whether a task is still to be submitted or to be waited for."""
        submitted = self.ctx.setdefault('child_pks', [])
        return len(submitted) < self.ctx.n_tasks or bool(self._running())

    def run_tasks(self) -> None:
        """Fill the free places, then wait for the child that has run longest."""
        running, start = self._running(), len(self.ctx.child_pks)
        free = self.inputs.max_concurrent.value - len(running)
        for index in range(start, min(start + free, self.ctx.n_tasks)):
            process, inputs = self.build_task(index)
            inputs.setdefault('metadata', {})['call_link_label'] = f'task_{index}'
            running.append(self.submit(process, **inputs).pk)
            self.ctx.child_pks.append(running[-1])
        self.ctx.running_pks = running
        self._report_progress()
        if running:
            self.to_context(awaited=orm.load_node(running[0]))

    def _report_progress(self) -> None:
        """Say how far it is, about ten times in all."""
        done = len(self.ctx.child_pks) - len(self.ctx.running_pks)
        if done * REPORTS // self.ctx.n_tasks > self.ctx.setdefault('n_reported', 0) * REPORTS // self.ctx.n_tasks:
            self.report(f'{done} of {self.ctx.n_tasks} done')
            self.ctx.n_reported = done

    def children(self) -> list[orm.ProcessNode]:
        """The children, in the order of their tasks."""
        return [orm.load_node(pk) for pk in self.ctx.child_pks]

    def _running(self) -> list[int]:
        """Identifiers of the children that have not ended, oldest first."""
        return [pk for pk in self.ctx.get('running_pks', []) if not orm.load_node(pk).is_terminated]
