"""Back-pressure, on children that do nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from aiida import orm
from aiida.engine import ExitCode, Process, WorkChain, run_get_node, while_

from aiida_alpot.workflows.fan_out import FanOutWorkChain, validate_positive

pytestmark = pytest.mark.usefixtures('aiida_profile')

IN_FLIGHT: list[int] = []
CONTEXT: list[dict[str, Any]] = []


class Child(WorkChain):
    """Lasts as many steps as it is asked to; a negative number fails at once."""

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.input('n_steps', valid_type=orm.Int)
        spec.exit_code(300, 'ERROR_ASKED_FOR', message='failed as asked')
        spec.outline(cls.begin, while_(cls.goes_on)(cls.count))

    def begin(self) -> ExitCode | None:
        """Fail where asked to."""
        self.ctx.done = 0
        return self.exit_codes.ERROR_ASKED_FOR if self.inputs.n_steps.value < 0 else None

    def goes_on(self) -> bool:
        """Whether steps are left."""
        return self.ctx.done < self.inputs.n_steps.value

    def count(self) -> None:
        """One step."""
        self.ctx.done += 1


class FanOut(FanOutWorkChain):
    """One child for each number of a list."""

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.input('steps', valid_type=orm.List)
        spec.output('ended', valid_type=orm.List)
        spec.outline(cls.start, while_(cls.has_tasks)(cls.run_tasks), cls.collect)

    def start(self) -> None:
        """One task a number."""
        self.ctx.n_tasks = len(self.inputs.steps)

    def build_task(self, index: int) -> tuple[type[Process], dict[str, Any]]:
        """A child that lasts so long."""
        return Child, {'n_steps': orm.Int(self.inputs.steps[index])}

    def run_tasks(self) -> None:
        """As ever, and note how many are in flight."""
        super().run_tasks()
        IN_FLIGHT.append(len(self._running()))
        CONTEXT.append(dict(self.ctx))

    def collect(self) -> None:
        """Length and exit status of each child, in the order of the tasks."""
        self.out('ended', orm.List([[c.inputs.n_steps.value, c.exit_status] for c in self.children()]).store())


@pytest.fixture
def run_fan_out() -> Callable[..., orm.WorkChainNode]:
    """Run a fan-out over numbers of steps."""

    def run(steps: list[int], max_concurrent: int) -> orm.WorkChainNode:
        IN_FLIGHT.clear()
        CONTEXT.clear()
        node = run_get_node(FanOut, steps=orm.List(steps), max_concurrent=orm.Int(max_concurrent))[1]
        assert node.is_finished_ok, node.exit_message
        return node

    return run


def test_never_more_than_allowed(run_fan_out: Callable[..., orm.WorkChainNode]) -> None:
    """Every place is taken at some time, and never one too many; results come in the order of the tasks."""
    steps = [9, 0, 3, 1, 6, 0, 2]
    node = run_fan_out(steps, 3)
    assert max(IN_FLIGHT) == 3
    assert node.outputs.ended.get_list() == [[n, 0] for n in steps]
    labels = [link.link_label for link in node.base.links.get_outgoing(node_class=orm.WorkChainNode).all()]
    assert sorted(labels) == [f'task_{index}' for index in range(len(steps))]


def test_context_holds_identifiers_only(run_fan_out: Callable[..., orm.WorkChainNode]) -> None:
    """Numbers, and the one process that is waited for, which AiiDA keeps as an identifier (peer defect 19)."""
    run_fan_out([1, 0, 1], 1)
    assert max(IN_FLIGHT) == 1
    for context in CONTEXT:
        awaited = context.pop('awaited', None)
        assert awaited is None or isinstance(awaited.pk, int)
        assert set(context) <= {'n_tasks', 'n_reported', 'child_pks', 'running_pks'}
        assert all(isinstance(pk, int) for key in ('child_pks', 'running_pks') for pk in context.get(key, []))


def test_failing_child_does_not_stop_the_others(run_fan_out: Callable[..., orm.WorkChainNode]) -> None:
    """Its exit status is there for the subclass to judge."""
    node = run_fan_out([1, -1, 2, -1, 0], 2)
    assert max(IN_FLIGHT) == 2
    assert node.outputs.ended.get_list() == [[1, 0], [-1, 300], [2, 0], [-1, 300], [0, 0]]


def test_no_tasks(run_fan_out: Callable[..., orm.WorkChainNode]) -> None:
    """Nothing to do is nothing to wait for."""
    assert run_fan_out([], 2).outputs.ended.get_list() == []
    assert IN_FLIGHT == []


def test_validate_positive() -> None:
    """Zero in flight would wait for ever."""
    assert validate_positive(orm.Int(1), None) is None
    assert validate_positive(orm.Int(0), None) == 'must be above zero, found 0'
    with pytest.raises(ValueError, match='must be above zero'):
        run_get_node(FanOut, steps=orm.List([0]), max_concurrent=orm.Int(0))
