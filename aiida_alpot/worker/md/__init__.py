"""Molecular dynamics in LAMMPS with the committee inside: input writer, driver, export."""

from aiida_alpot.worker.md.export import export_lammps
from aiida_alpot.worker.md.lammps_input import LammpsInput, write_lammps_input
from aiida_alpot.worker.md.settings import MDSettings

__all__ = ('LammpsInput', 'MDSettings', 'export_lammps', 'write_lammps_input')
