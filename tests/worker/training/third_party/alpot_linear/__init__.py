"""A trainer as another package brings it: pair potentials, linear in their coefficients, in plain numpy."""

from alpot_linear.trainer import LinearTrainer

__all__ = ['LinearTrainer']
