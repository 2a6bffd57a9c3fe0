"""Active learning of interatomic potentials with AiiDA."""

__version__ = '0.1.0'
