"""Stochastic gradient descent for :mod:`alpot_linear.calculator`, and the ways in which a training goes wrong."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from aiida_alpot.worker.frames import read_extxyz
from aiida_alpot.worker.options import unknown_name
from aiida_alpot.worker.training.trainer import (
    CorruptCheckpoint,
    Epoch,
    Member,
    Result,
    Task,
    Trainer,
    TrainingFailed,
)
from alpot_linear.calculator import Basis

OPTIONS: dict[str, Any] = {'n_basis': 10, 'pause': 0.0, 'separate': False, 'faults': []}
"""``separate``: by a program of its own. ``faults``: what goes wrong, see :class:`Fault`."""


class Fault:
    """One thing that goes wrong: ``{what, epoch, members, above_batch_size, above_factor}``."""

    def __init__(self, what: str, epoch: int = 2, members=None, above_batch_size: int = 0, above_factor: float = 0.0):
        self.what, self.epoch, self.members = what, epoch, members
        self.above_batch_size, self.above_factor = above_batch_size, above_factor

    def strikes(self, what: str, member: Member, epoch: int) -> bool:
        return (
            self.what == what
            and epoch >= self.epoch
            and (self.members is None or member.index in self.members)
            and member.batch_size > self.above_batch_size
            and member.learning_rate_factor > self.above_factor
        )


class LinearTrainer(Trainer):
    """Pair potentials by stochastic gradient descent."""

    name = 'linear'
    requires = 'alpot_linear'
    checks_without_import = True

    @property
    def options(self) -> dict[str, Any]:
        return {**OPTIONS, **self.settings.parameters}

    def check_options(self) -> None:
        for name in self.settings.parameters:
            if name not in OPTIONS:
                raise ValueError(unknown_name(name, OPTIONS, 'option of the linear trainer'))
        if self.settings.cutoff is None:
            raise ValueError('`cutoff` is not given: the linear trainer has no model to take it from')

    def load(self, task: Task) -> None:
        """Design matrices of all frames: members share them."""
        basis = self._basis(task)
        self._train = list(read_rows(basis, task.data.train, task))
        self._validation = list(read_rows(basis, task.data.validation, task))

    def _basis(self, task: Task) -> Basis:
        assert self.settings.cutoff is not None
        return Basis(task.data.elements, self.settings.cutoff, self.options['n_basis'])

    def prepare(self, task: Task, member: Member) -> None:
        if member.start is not None:
            read_start(member.start)
        job = {
            'settings': asdict(self.settings),
            'task': {**asdict(task), 'settings': None},
            'member': {**asdict(member), 'indices': None if member.indices is None else member.indices.tolist()},
        }
        (member.folder / 'config.json').write_text(json.dumps(job, default=str))

    def has_checkpoint(self, member: Member) -> bool:
        return (member.folder / 'checkpoint.json').is_file()

    def command(self, task: Task, member: Member) -> list[str]:
        return [sys.executable, '-m', 'alpot_linear.run', 'config.json']

    def run(self, task: Task, member: Member) -> NoReturn:
        if self.options['separate']:
            super().run(task, member)
        self.train(task, member)
        raise SystemExit(0)

    def train(self, task: Task, member: Member) -> None:
        """Epoch after epoch, with a checkpoint after each."""
        print(f'on {member.device} {os.environ.get("CUDA_VISIBLE_DEVICES")}, threads {os.environ["OMP_NUM_THREADS"]}')
        state = self._begin(task, member)
        rows = self._train if member.indices is None else [self._train[i] for i in member.indices]
        weights = self._weights()
        inverse = inverse_curvature(rows, weights)
        rate = (self.settings.learning_rate or 0.3) * member.learning_rate_factor
        if not self.has_checkpoint(member):
            self._write_epoch(member, state, None, weights)
        for epoch in range(state['epoch'] + 1, self.settings.epochs + 1):
            time.sleep(self.options['pause'])
            coefficients = np.array(state['coefficients'])
            order = np.random.default_rng([member.seed, epoch]).permutation(len(rows))
            losses = []
            for start in range(0, len(rows), member.batch_size):
                batch = [rows[i] for i in order[start : start + member.batch_size]]
                loss, gradient = loss_and_gradient(batch, coefficients, weights)
                coefficients = coefficients - rate * inverse @ gradient
                losses.append(loss)
            state = {**state, 'epoch': epoch, 'coefficients': coefficients.tolist()}
            self._misbehave(member, state, losses)
            self._write_epoch(member, state, float(np.mean(losses)), weights)
        self._finish(task, member, state)

    def _begin(self, task: Task, member: Member) -> dict[str, Any]:
        if self.has_checkpoint(member):
            try:
                return json.loads((member.folder / 'checkpoint.json').read_text())
            except ValueError as error:
                raise CorruptCheckpoint(f'the checkpoint of member {member.index} is damaged ({error})') from error
        size = self._basis(task).size
        coefficients = np.random.default_rng([member.seed, 0]).normal(scale=0.01, size=size)
        if member.start is not None:
            coefficients = read_start(member.start)
        return {'epoch': 0, 'coefficients': coefficients.tolist(), 'best': None, 'best_epoch': 0, 'best_loss': None}

    def _weights(self) -> dict[str, float]:
        return {name: getattr(self.settings.weights, name) for name in self.settings.properties}

    def _write_epoch(self, member: Member, state: dict[str, Any], train_loss: float | None, weights) -> None:
        coefficients = np.array(state['coefficients'])
        loss, _ = loss_and_gradient(self._validation, coefficients, weights)
        if state['best_loss'] is None or loss < state['best_loss']:
            state.update(best=state['coefficients'], best_epoch=state['epoch'], best_loss=loss)
        entry = {'epoch': state['epoch'], 'train_loss': train_loss, 'loss': loss}
        entry |= rmse(self._validation, coefficients, self.settings.properties)
        with (member.folder / 'history.jsonl').open('a') as stream:
            stream.write(json.dumps(entry) + '\n')
        temporary = member.folder / 'checkpoint.tmp'
        temporary.write_text(json.dumps(state))
        temporary.replace(member.folder / 'checkpoint.json')
        print(f'epoch {state["epoch"]}: loss {loss:.3e}')

    def _finish(self, task: Task, member: Member, state: dict[str, Any]) -> None:
        if self._strikes('no_model', member, 10**9):
            return
        settings = self.settings
        parameters = {
            'elements': list(task.data.elements),
            'cutoff': settings.cutoff,
            'n_basis': self.options['n_basis'],
            'coefficients': state['best'],
            'reference_energies': dict(task.data.reference_energies),
        }
        description = {
            'calculator': 'alpot_linear.calculator.PairCalculator',
            'parameters': parameters,
            'elements': list(task.data.elements),
            'cutoff': settings.cutoff,
        }
        (member.folder / 'model.json').write_text(json.dumps(description))

    def history(self, member: Member) -> list[Epoch]:
        path = member.folder / 'history.jsonl'
        lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
        return [Epoch(**json.loads(line)) for line in lines if line.endswith('\n')]

    def result(self, task: Task, member: Member) -> Result:
        model = member.folder / 'model.json'
        if not model.is_file():
            raise TrainingFailed('it left no model.json')
        state = json.loads((member.folder / 'checkpoint.json').read_text())
        weights = self._weights()
        if self._strikes('forgets_forces', member, 10**9):
            weights['forces'] = 0.0
        if self._strikes('leaves_out_stress', member, 10**9):
            del weights['stress']
        return Result(
            model=model,
            epoch=state['best_epoch'],
            loss_name='weighted mean squares',
            loss_weights=weights,
            checkpoint=member.folder / 'checkpoint.json',
            hyper_parameters={**self.options, 'learning_rate': self.settings.learning_rate or 0.3},
            version='1.0',
        )

    # What goes wrong.

    def _strikes(self, what: str, member: Member, epoch: int) -> bool:
        return any(Fault(**fault).strikes(what, member, epoch) for fault in self.options['faults'])

    def _misbehave(self, member: Member, state: dict[str, Any], losses: list[float]) -> None:
        epoch = state['epoch']
        if self._strikes('nan', member, epoch):
            state['coefficients'] = [float('nan')] * len(state['coefficients'])
            losses.append(float('nan'))
        if self._strikes('explode', member, epoch):
            losses.append(1e9 * (1 + losses[0]) * 10 ** (epoch % 3))
        if self._strikes('out_of_memory', member, epoch):
            raise MemoryError('made up')
        if self._strikes('cuda_out_of_memory', member, epoch):
            sys.exit('torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.')
        if self._strikes('killed', member, epoch):
            os.kill(os.getpid(), signal.SIGKILL)
        if self._strikes('terminated', member, epoch):
            os.kill(os.getpid(), signal.SIGTERM)
        if self._strikes('crash', member, epoch):
            raise RuntimeError('made to fail')
        if self._strikes('hang', member, epoch):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(600)


def read_start(path: Path) -> np.ndarray:
    """Coefficients of an earlier training.

    :raises CorruptCheckpoint: for what is none.
    """
    try:
        return np.array(json.loads(path.read_text())['coefficients'])
    except (ValueError, KeyError) as error:
        raise CorruptCheckpoint(f'{path.name} is no checkpoint of this trainer ({error})') from error


def read_rows(basis: Basis, path: Path, task: Task) -> Iterator[dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Design matrix and labels of each property that a frame is labelled with."""
    for frame in read_extxyz(path):
        atoms = frame.unlabelled().to_atoms()
        energy, forces, stress = basis.design(atoms)
        rows = {}
        reference = sum(task.data.reference_energies[symbol] for symbol in atoms.get_chemical_symbols())
        if frame.energy is not None:
            rows['energy'] = energy[None] / len(frame), np.array([frame.energy - reference]) / len(frame)
        if frame.forces is not None:
            rows['forces'] = forces.reshape(-1, basis.size), frame.forces.ravel()
        if frame.stress is not None:
            rows['stress'] = stress.reshape(9, -1), frame.stress.ravel()
        yield rows


def loss_and_gradient(rows, coefficients: np.ndarray, weights: dict[str, float]) -> tuple[float, np.ndarray]:
    """Mean over frames of the weighted mean squares."""
    loss, gradient = 0.0, np.zeros_like(coefficients)
    for row in rows:
        for name, weight in weights.items():
            if name in row:
                design, label = row[name]
                error = design @ coefficients - label
                loss += weight * float(np.mean(error**2)) / len(rows)
                gradient += weight * 2 * design.T @ error / len(error) / len(rows)
    return loss, gradient


def inverse_curvature(rows, weights: dict[str, float]) -> np.ndarray:
    """Inverse of the second derivative of the loss, so that few steps suffice."""
    curvature = sum(
        2 * weight * row[name][0].T @ row[name][0] / len(row[name][1]) / len(rows)
        for row in rows
        for name, weight in weights.items()
        if name in row
    )
    return np.linalg.inv(curvature + 1e-6 * np.trace(curvature) / len(curvature) * np.eye(len(curvature)))


def rmse(rows, coefficients: np.ndarray, properties) -> dict[str, float]:
    """Errors by property."""
    found = {}
    for name in properties:
        errors = [row[name][0] @ coefficients - row[name][1] for row in rows if name in row]
        if errors:
            found[name] = float(np.sqrt(np.mean(np.concatenate(errors) ** 2)))
    return found
