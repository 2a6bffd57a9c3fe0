"""Active learning of silicon by hand: `verdi run launch.py`, after `aiida-alpot setup`."""

from aiida.engine import run_get_node
from ase.build import bulk

from aiida_alpot.workflows.active_learning import ActiveLearningWorkChain

builder = ActiveLearningWorkChain.get_builder_from_protocol(
    structures={'silicon': bulk('Si', a=5.43)},
    codes={
        'pw': 'pw@localhost',
        'mace_train': 'mace_run_train@localhost',
        'md': 'alpot-md@localhost',
        'evaluate': 'alpot-evaluate@localhost',
    },
    protocol='fast',
    overrides={
        'seed': 1,
        'labelling': {'pseudo_family': 'Debian/PBE', 'kpoints_distance': 0.55},
        'exploration': {'start_origins': ['supercell'], 'start_min_atoms': 16},
    },
)
results, node = run_get_node(builder)
ending = results['results']['ended_by'] if node.is_finished_ok else node.exit_message
print(f'campaign {node.pk} ended with exit code {node.exit_status}: {ending}')
