"""Extrapolation grades (D-optimality) of atoms and configurations."""

from aiida_alpot.worker.acquisition.extrapolation.active_set import ActiveSet
from aiida_alpot.worker.acquisition.extrapolation.active_sets import (
    ActiveSets,
    Grades,
    choose_active_sets,
    configuration_grades,
)
from aiida_alpot.worker.acquisition.extrapolation.clusters import CLUSTERINGS, birch_clusters, k_means_clusters
from aiida_alpot.worker.acquisition.extrapolation.forces import usual_forces
from aiida_alpot.worker.acquisition.extrapolation.storage import load_active_sets, read_active_sets, save_active_sets

__all__ = [
    'CLUSTERINGS',
    'ActiveSet',
    'ActiveSets',
    'Grades',
    'birch_clusters',
    'choose_active_sets',
    'configuration_grades',
    'k_means_clusters',
    'load_active_sets',
    'read_active_sets',
    'save_active_sets',
    'usual_forces',
]
