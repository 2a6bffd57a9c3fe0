"""What every trainer has to hold."""

from __future__ import annotations

from pathlib import Path

from aiida_alpot.worker.training.conformance import check_trainer
from aiida_alpot.worker.training.mace import MaceTrainer


def test_conformance(tiny_model: dict[str, object], tmp_path: Path) -> None:
    """Committees, seeds, interruptions, and that test frames are not seen."""
    import mace.cli.run_train  # noqa: F401 -- once, for all processes that are forked
    import torch

    torch.set_num_threads(1)
    check_trainer(MaceTrainer, tiny_model, tmp_path, {'learning_rate': 0.02})
