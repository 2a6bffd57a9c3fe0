"""Training of MACE models by ``mace_run_train`` (Batatia et al., NeurIPS 35, 11423 (2022))."""

from aiida_alpot.worker.training.mace.trainer import MaceTrainer

__all__ = ['MaceTrainer']
