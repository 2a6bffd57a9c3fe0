"""Other forms of a trained model."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import mace  # noqa: F401 -- before e3nn
import torch
from e3nn.util import jit


def export_torchscript(model: Path, path: Path) -> Path:
    """Write a MACE model as TorchScript, which runs without Python.

    **Trust**: the model is a pickle, and loading a pickle can run any code.

    :raises RuntimeError: for a model that TorchScript cannot express.
    """
    loaded = torch.load(model, map_location='cpu', weights_only=False).eval()
    torch.jit.save(jit.compile(deepcopy(loaded)), str(path))
    return path
