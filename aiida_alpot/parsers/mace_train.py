"""What ``mace_run_train`` left behind."""

from __future__ import annotations

import json
import math
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from aiida import orm
from aiida.engine import ExitCode
from aiida.parsers import Parser

from aiida_alpot.calculations.mace_train import MaceTrainCalculation, requested_properties
from aiida_alpot.data.potential import PotentialData

PRINTED_WEIGHT = 5e-4
"""Weights below this are printed as zero by mace_run_train."""


class MaceTrainParser(Parser):
    """Makes a ``PotentialData`` and the errors by epoch; refuses a model whose loss lacks what was asked for."""

    def parse(self, **kwargs: Any) -> ExitCode | None:
        stdout = self._read(self.node.get_option('output_filename'))
        if stdout is None:
            return self.exit_codes.ERROR_NO_RETRIEVED
        history = parse_history(self._find('results', '_train.txt') or '')
        loss = parse_loss(stdout)
        finite = [epoch for epoch in history if epoch['loss'] is not None]
        if finite:
            self.out('results', orm.Dict({'epochs': finite, 'final': best_epoch(finite), 'loss': loss}))
        if len(finite) < len(history):
            return self.exit_codes.ERROR_DIVERGED
        model = self._model(pathlib.Path(kwargs['retrieved_temporary_folder']))
        if model is None:
            return self.exit_codes.ERROR_TRAINING_FAILED.format(last_words=last_words(stdout))
        if not history:
            return self.exit_codes.ERROR_NO_RESULTS
        inputs = self.node.inputs
        parameters = inputs.parameters.get_dict()
        missing = missing_properties(parameters, loss['weights'])
        if missing:
            return self.exit_codes.ERROR_PROPERTY_NOT_TRAINED.format(properties=', '.join(missing), loss=loss['name'])
        self.out(
            'potential',
            PotentialData(
                model,
                trainer='mace',
                elements=inputs.dataset.elements,
                cutoff=float(parameters.get('r_max', 5.0)),
                seed=inputs.seed.value,
                dtype=parameters.get('default_dtype', 'float64'),
            ),
        )
        return None

    def _read(self, name: str) -> str | None:
        if name not in self.retrieved.base.repository.list_object_names():
            return None
        return self.retrieved.base.repository.get_object_content(name)

    def _find(self, folder: str, ending: str) -> str | None:
        """Content of the first retrieved file of a folder with this ending."""
        if folder not in self.retrieved.base.repository.list_object_names():
            return None
        for name in sorted(self.retrieved.base.repository.list_object_names(folder)):
            if name.endswith(ending):
                return self.retrieved.base.repository.get_object_content(f'{folder}/{name}')
        return None

    @staticmethod
    def _model(folder: pathlib.Path) -> pathlib.Path | None:
        """The model of the last stage of the training."""
        for name in (MaceTrainCalculation.MODEL_STAGE_TWO, MaceTrainCalculation.MODEL):
            if (folder / name).is_file():
                return folder / name
        return None


def parse_history(text: str) -> list[dict[str, Any]]:
    """Errors of the validation frames by epoch, from the results file; a last line cut short is left out.

    :returns: for each evaluation ``epoch`` (null before training), ``loss`` and the RMSEs in eV/atom, eV/A, eV/A^3;
        null for what is not finite.
    """
    history = []
    for line in text.splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue  # the job was killed while it wrote this line
        if record.get('mode') == 'eval':
            kept = {key: value for key, value in record.items() if key in ('epoch', 'loss') or 'rmse' in key}
            history.append({key: _finite(value) for key, value in kept.items()})
    return history


def _finite(value: Any) -> Any:
    """The value, or ``None`` where it is a number that is not finite: no database stores that."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def best_epoch(history: list[dict[str, Any]]) -> dict[str, Any]:
    """The evaluation with the lowest loss, which is the one that mace_run_train keeps."""
    return min(history, key=lambda epoch: epoch['loss'])


def parse_loss(stdout: str) -> dict[str, Any]:
    """Name of the loss that was used and the weight of each property in it, as mace_run_train printed them."""
    found = re.findall(r'(\w*Loss)\((.*?)\)', stdout)
    if not found:
        return {'name': 'not printed', 'weights': {}}
    name, arguments = found[-1]
    weights = {key: float(value) for key, value in re.findall(r'(\w+)_weight=([\d.eE+-]+)', arguments)}
    return {'name': f'{name}({arguments})', 'weights': weights}


def missing_properties(parameters: Mapping[str, Any], weights: Mapping[str, float]) -> list[str]:
    """Properties that were asked for and are not in the loss that was used."""
    missing = []
    for name in requested_properties(parameters):
        prints_as_zero = parameters[f'{name}_weight'] < PRINTED_WEIGHT
        if name not in weights or (weights[name] == 0 and not prints_as_zero):
            missing.append(name)
    return missing


def last_words(stdout: str) -> str:
    """Last line of a log that says something."""
    lines = [line.strip() for line in stdout.splitlines() if line.strip()]
    return lines[-1][:300] if lines else 'nothing'
