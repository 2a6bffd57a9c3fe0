"""What the members of a committee go on from: nothing, a foundation model, or members of an earlier round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from aiida_alpot.worker.frames import read_extxyz, write_extxyz
from aiida_alpot.worker.training.reference_energies import ISOLATED_ATOMS
from aiida_alpot.worker.training.trainer import Member, Task

if TYPE_CHECKING:
    import torch

FOUNDATION = 'the foundation model'
ANOTHER_REFERENCE = 0.1
"""Energies of an isolated atom that differ by more than so many eV are of different references."""

HELD_OUT = 10
"""Every so many-th frame of the replay is held out, to see what is forgotten."""

MAX_FRAMES = 200
"""Frames by which reference energies are fitted to a foundation model at most."""


class Origins:
    """The models that members go on from, compared with what is asked for.

    :param options: of mace_run_train, as they are given.
    """

    def __init__(self, task: Task, options: Mapping[str, Any]) -> None:
        self._task = task
        self._settings = task.settings
        self._options = options
        self._estimated: dict[str, float] | None = None
        self._starts: dict[Path, dict[str, float] | None] = {}

    @cached_property
    def foundation(self) -> torch.nn.Module | None:
        """The foundation model with the head that is tuned.

        :raises ValueError: where it cannot be used for this data set or with these options.
        """
        if self._task.foundation is None:
            return None
        from aiida_alpot.worker.training.mace.foundation import elements_of, load_model, with_one_head

        loaded = load_model(self._task.foundation, FOUNDATION)
        model = with_one_head(loaded, self._options.get('foundation_head'))
        missing = [symbol for symbol in self._task.data.elements if symbol not in elements_of(model)]
        if missing:
            raise ValueError(
                f'{FOUNDATION} does not know {", ".join(missing)}, which the data set contains: give a model of all '
                'its elements, or train from scratch'
            )
        self._refuse_contradictions(model, FOUNDATION)
        return model

    def _refuse_contradictions(self, model: torch.nn.Module, what: str) -> None:
        from aiida_alpot.worker.training.mace.foundation import contradictions

        sentences = contradictions(model, self._options, self._settings.cutoff)
        if sentences:
            raise ValueError(f'{what} is not what is asked for: {"; ".join(sentences)}. Leave these options out')

    def check(self) -> list[str]:
        """Compare what is asked for with the data and the models.

        :return: sentences of what is doubtful.
        :raises ValueError: for what cannot be.
        """
        tuning, task = self._settings.fine_tuning, self._task
        if task.foundation is None and not task.starts:
            asked = ['method: replay'] if tuning.method == 'replay' else []
            asked += [name for name in ('freeze', 'lora_rank') if getattr(tuning, name) is not None]
            if asked:
                raise ValueError(f'`fine_tuning` has `{asked[0]}`, but there is no model to tune: give `foundation`')
        if tuning.method == 'replay' and (task.replay is None or task.foundation is None):
            raise ValueError(
                '`fine_tuning.method` is replay: give `foundation`, and `replay` with frames that it knows'
            )
        if tuning.method == 'naive' and task.replay is not None:
            raise ValueError('`replay` is given and would not be used: give `fine_tuning: {method: replay}`')
        self.cutoff  # noqa: B018 -- which may be unknown
        return [*self._of_foundation(), *filter(None, map(self._of_start, task.starts))]

    def _of_foundation(self) -> list[str]:
        if self.foundation is None:
            return []
        from aiida_alpot.worker.training.mace.foundation import reference_energies_of

        data, own = self._task.data, reference_energies_of(self.foundation)
        if data.reference_source != ISOLATED_ATOMS:
            return [
                f'reference energies that are fitted to the labels do not go with {FOUNDATION}, which has cohesion of '
                'its own: they are fitted to what the labels and the model differ by; label isolated atoms instead'
            ]
        differ = {
            symbol: energy - own[symbol]
            for symbol, energy in data.reference_energies.items()
            if abs(energy - own[symbol]) > ANOTHER_REFERENCE
        }
        if not differ:
            return []
        shifts = ', '.join(f'{symbol} by {shift:+.2f} eV' for symbol, shift in differ.items())
        return [
            f'energies of the data set are of another reference than those of {FOUNDATION}: isolated atoms differ '
            f'({shifts}); its reference energies are replaced by those of the data set'
        ]

    def _of_start(self, path: Path) -> str | None:
        if self._start(path) is not None:
            return None
        instead = FOUNDATION if self._task.foundation else 'scratch'
        return (
            f'the data set has elements that the earlier model {path.name} does not know: this member is trained from '
            f'{instead}'
        )

    def _start(self, path: Path) -> dict[str, float] | None:
        """Reference energies of the model of an earlier round, or ``None`` where it lacks an element."""
        if path not in self._starts:
            from aiida_alpot.worker.training.mace.foundation import load_model, reference_energies_of, with_one_head

            model = with_one_head(load_model(path, 'the earlier model'))
            self._refuse_contradictions(model, f'the earlier model, {path},')
            energies = reference_energies_of(model)
            self._starts[path] = energies if set(self._task.data.elements) <= set(energies) else None
        return self._starts[path]

    def is_warm(self, member: Member) -> bool:
        """Whether a member goes on from one of an earlier round."""
        return member.start is not None and self._start(member.start) is not None

    def path(self, member: Member) -> Path | None:
        """File of the model that a member goes on from."""
        return member.start if self.is_warm(member) else self._task.foundation

    @cached_property
    def cutoff(self) -> float:
        """Of all members, A.

        :raises ValueError: where it is not known.
        """
        from_file = self._task.foundation or next(iter(self._task.starts), None)
        if self._settings.cutoff is not None:
            return self._settings.cutoff
        if self.foundation is not None:
            return float(self.foundation.r_max)
        if from_file is None:
            raise ValueError('`cutoff` is null and there is no model to take it from: give it in A')
        from aiida_alpot.worker.training.mace.foundation import load_model

        return float(load_model(from_file, 'the earlier model').r_max)

    @cached_property
    def elements(self) -> tuple[str, ...]:
        """Of all members: those of the data set, of the replay, and by option of the foundation model."""
        numbers = {atomic_numbers[symbol] for symbol in self._task.data.elements} | self._replay[1]
        if self.foundation is not None and self._options.get('foundation_model_elements'):
            numbers |= set(self.foundation.atomic_numbers.tolist())
        return tuple(chemical_symbols[number] for number in sorted(numbers))

    @cached_property
    def _replay(self) -> tuple[int, set[int]]:
        """Number of frames that are trained on again, and their elements; they are written here, once."""
        if self._task.replay is None:
            return 0, set()
        frames = list(read_extxyz(self._task.replay))
        held_out = frames[::HELD_OUT]
        kept = [frame for row, frame in enumerate(frames) if row % HELD_OUT] or held_out
        for path, part in zip(self._replay_files(), (kept, held_out), strict=True):
            write_extxyz(part, path)
        return len(kept), {int(number) for frame in frames for number in frame.numbers}

    def _replay_files(self) -> tuple[Path, Path]:
        folder = self._task.folder / 'data'
        folder.mkdir(parents=True, exist_ok=True)
        return folder / 'replay_train.xyz', folder / 'replay_validation.xyz'

    @property
    def n_replay(self) -> int:
        """Number of frames of the foundation model that are trained on again."""
        return self._replay[0]

    def fine_tuning(self) -> dict[str, Any]:
        """Options of mace_run_train for the method of tuning."""
        tuning = self._settings.fine_tuning
        options: dict[str, Any] = {}
        if self.n_replay:
            train, validation = self._replay_files()
            options |= {'multiheads_finetuning': True, 'pt_train_file': str(train), 'pt_valid_file': str(validation)}
        if tuning.freeze is not None:
            options['freeze'] = tuning.freeze
        if tuning.lora_rank is not None:
            options |= {'lora': True, 'lora_rank': tuning.lora_rank}
        return options

    def reference_energies(self, member: Member) -> dict[str, float]:
        """Reference energies that the model of a member has, of all its elements, eV.

        Those of isolated atoms, where there are labels; else those of the earlier round; else fitted ones.
        """
        data = self._task.data
        energies: Mapping[str, float] = data.reference_energies
        if data.reference_source != ISOLATED_ATOMS:
            if member.start is not None and (earlier := self._start(member.start)) is not None:
                energies = {symbol: earlier[symbol] for symbol in data.elements}
            else:
                energies = self._estimated or energies
        return {symbol: energies.get(symbol, self._of_others.get(symbol, 0.0)) for symbol in self.elements}

    @cached_property
    def _of_others(self) -> dict[str, float]:
        """Reference energies of elements that the data set does not contain, eV."""
        if self.foundation is None:
            return {}
        from aiida_alpot.worker.training.mace.foundation import reference_energies_of

        return reference_energies_of(self.foundation)

    def estimate(self, configurations: Sequence[Any]) -> None:
        """Fit reference energies to what the labels and the foundation model differ by, where there are no atoms.

        :param configurations: of MACE, the training frames.
        """
        if self.foundation is None or self._task.data.reference_source == ISOLATED_ATOMS:
            return
        from aiida_alpot.worker.training.mace.foundation import estimated_reference_energies, predict_energies

        labelled = [config for config in configurations if config.property_weights.get('energy')]
        chosen = labelled[:: max(1, len(labelled) // MAX_FRAMES)]
        elements = self._task.data.elements
        composition = np.array([[np.sum(c.atomic_numbers == atomic_numbers[s]) for s in elements] for c in chosen])
        labels = np.array([float(config.properties['energy']) for config in chosen])
        predicted = predict_energies(self.foundation, chosen)
        self._estimated = estimated_reference_energies(self.foundation, composition, elements, labels, predicted)

    def write(self, member: Member, path: Path) -> None:
        """Write the model that a member goes on from, with one head and the reference energies that it is to have.

        Where frames of the foundation model are replayed, MACE takes their reference energies from this model.
        """
        import torch

        from aiida_alpot.worker.training.mace.foundation import load_model, set_reference_energies, with_one_head

        origin = self.path(member)
        assert origin is not None
        head = None if self.is_warm(member) else self._options.get('foundation_head')
        model = with_one_head(load_model(origin, 'the model that is gone on from'), head)
        known = set(self._of_others) if self.n_replay else set(self.elements)
        energies = self._of_others if self.n_replay else self.reference_energies(member)
        of_model = {chemical_symbols[number] for number in model.atomic_numbers.tolist()}
        set_reference_energies(model, {symbol: energies[symbol] for symbol in known & of_model})
        torch.save(model, path)
