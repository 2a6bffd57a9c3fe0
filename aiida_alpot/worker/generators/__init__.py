"""Generators: frames made of other frames, to start a data set from."""

from aiida_alpot.worker.generators.derivation import Generator
from aiida_alpot.worker.generators.registry import GENERATORS, Generation, RejectedFrame, Step, generate, parse_plan

__all__ = ['GENERATORS', 'Generation', 'Generator', 'RejectedFrame', 'Step', 'generate', 'parse_plan']
