"""The data of a training in memory, read once and shared by all members that are forked from the process.

MACE's own two loaders make the data. Here is only remembered what they made, so that each file is parsed and each
neighbour list is made once, however many members train on them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from aiida_alpot.worker.training.mace.history import REPLAY_HEAD

LOADERS = ('get_dataset_from_xyz', 'load_dataset_for_path')
"""Names of MACE's loaders in ``mace.cli.run_train``: files to configurations, and these to graphs."""

OF_FILES = ('train_path', 'valid_path', 'key_specification', 'config_type_weights', 'head_name', 'keep_isolated_atoms')
"""Arguments of the first loader that decide what it returns where validation frames have a file of their own."""


class SharedData:
    """Can stand in for the loaders in the namespace of ``mace.cli.run_train``.

    :param run_train: that module.
    """

    def __init__(self, run_train: Any) -> None:
        self.rows: np.ndarray | None = None
        """Training frames that are seen, possibly some of them more than once; ``None``: all."""
        self._read: Callable[..., Any] = run_train.get_dataset_from_xyz
        self._make: Callable[..., Any] = run_train.load_dataset_for_path
        self._signature = inspect.signature(self._read)
        self._collections: dict[str, Any] = {}
        self._graphs: dict[Any, tuple[Any, Any]] = {}

    def install(self, run_train: Any) -> None:
        """Take the place of the loaders; for a process that does nothing else."""
        run_train.get_dataset_from_xyz = self.get_dataset_from_xyz
        run_train.load_dataset_for_path = self.load_dataset_for_path

    def get_dataset_from_xyz(self, *args: Any, **kwargs: Any) -> Any:
        """As MACE's; the lists are new, the configurations in them are shared."""
        given = self._signature.bind(*args, **kwargs).arguments
        if not given.get('valid_path') or given.get('test_path'):
            return self._read(*args, **kwargs)  # draws frames at random
        key = repr([given.get(name) for name in OF_FILES])
        if key not in self._collections:
            self._collections[key] = self._read(*args, **kwargs)
        collections, energies = self._collections[key]
        train = list(collections.train)
        if self.rows is not None and given.get('head_name') != REPLAY_HEAD:
            train = [train[row] for row in self.rows]
        return type(collections)(train=train, valid=list(collections.valid), tests=[]), energies

    def load_dataset_for_path(
        self, file_path: Any, r_max: float, z_table: Any, heads: Any, head_config: Any, collection: Any = None
    ) -> Any:
        """As MACE's; a graph is made of each configuration once."""
        if collection is None:
            return self._make(file_path, r_max, z_table, heads, head_config)
        kind = (float(r_max), tuple(int(z) for z in z_table.zs), tuple(heads))
        missing = {id(config): config for config in collection if (kind, id(config)) not in self._graphs}
        if missing:
            made = self._make(file_path, r_max, z_table, heads, head_config, list(missing.values()))
            for config, graph in zip(missing.values(), made, strict=True):
                self._graphs[kind, id(config)] = (config, graph)  # which is kept: its id must stay its own
        return [self._graphs[kind, id(config)][1] for config in collection]

    def graphs_of(self, configurations: Sequence[Any]) -> list[Any]:
        """Those that were made already of these configurations."""
        wanted = {id(config) for config in configurations}
        return [graph for (_, of), (_, graph) in self._graphs.items() if of in wanted]
