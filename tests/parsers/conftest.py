"""Jobs that ended, made by hand."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from aiida import orm
from aiida.common.links import LinkType
from aiida.plugins import ParserFactory
from aiida.plugins.entry_point import format_entry_point_string


@pytest.fixture
def parse(aiida_profile: Any, aiida_localhost: orm.Computer, tmp_path: Path) -> Callable[..., tuple[Any, Any]]:
    """Parse what a job left: ``parse(entry_point, retrieved, inputs) -> (outputs, exit code or 0)``.

    Files that the job brings back only for the parser are those in ``tmp_path``. ``exit_status`` is what the scheduler
    said of it.
    """

    def run(
        entry_point: str,
        retrieved: Mapping[str, str],
        inputs: Mapping[str, orm.Data] | None = None,
        exit_status: int | None = None,
        **options: Any,
    ) -> tuple[dict[str, Any], Any]:
        process_type = format_entry_point_string('aiida.calculations', entry_point)
        node = orm.CalcJobNode(computer=aiida_localhost, process_type=process_type)
        node.set_options({'resources': {'num_machines': 1}, 'output_filename': 'job.out', **options})
        for name, value in (inputs or {}).items():
            node.base.links.add_incoming(value.store(), link_type=LinkType.INPUT_CALC, link_label=name)
        if exit_status is not None:
            node.set_exit_status(exit_status)
        node.store()
        folder = orm.FolderData()
        for name, content in retrieved.items():
            folder.base.repository.put_object_from_filelike(io.BytesIO(content.encode()), name)
        folder.base.links.add_incoming(node, link_type=LinkType.CREATE, link_label='retrieved')
        folder.store()
        outputs, parsed = ParserFactory(entry_point).parse_from_node(
            node, store_provenance=False, retrieved_temporary_folder=str(tmp_path)
        )
        for value in outputs.values():
            for node in value.values() if isinstance(value, dict) else [value]:
                node.clone().store()  # what cannot be stored is no output
        return outputs, parsed

    return run
