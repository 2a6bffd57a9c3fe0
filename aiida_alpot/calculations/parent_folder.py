"""The folder of an earlier job, which a job goes on from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from aiida import orm


def define_parent_folder(spec: Any, text: str, *checks: Callable[[Mapping[str, Any], Any], str | None]) -> None:
    """Add the input ``parent_folder`` to the specification of a job, and what it is checked by.

    :param text: help of the input.
    :param checks: further validators of all inputs, which come after those that there are and that of the computer.
    """
    spec.input('parent_folder', valid_type=orm.RemoteData, required=False, validator=validate_parent_folder, help=text)
    validators = (spec.inputs.validator, validate_computer, *checks)

    def validate(inputs: Mapping[str, Any], port: Any) -> str | None:
        return next((problem for check in validators if (problem := check(inputs, port))), None)

    spec.inputs.validator = validate


def validate_parent_folder(node: orm.RemoteData | None, _: Any) -> str | None:
    """Refuse a folder that is gone."""
    if node is not None and node.is_cleaned:
        return f'the folder {node.pk} was cleaned, so nothing is kept there: leave `parent_folder` out'
    return None


def validate_computer(inputs: Mapping[str, Any], _: Any) -> str | None:
    """Refuse a folder on another computer than that of the job, where it could not be reached."""
    folder, code = inputs.get('parent_folder'), inputs.get('code')
    computer = inputs.get('metadata', {}).get('computer') or (code.computer if code is not None else None)
    if folder is None or computer is None or folder.computer.uuid == computer.uuid:
        return None
    return (
        f'`parent_folder` is on the computer `{folder.computer.label}`, but the job runs on `{computer.label}`: give a '
        'folder there, or none'
    )
