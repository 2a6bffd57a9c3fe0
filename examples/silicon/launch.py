"""The campaign of campaign.yaml by hand: `verdi run launch.py`, after `aiida-alpot setup`."""

from aiida.engine import run_get_node
from ase.build import bulk

from aiida_alpot.workflows.active_learning import ActiveLearningWorkChain

programs = {'pw': 'pw', 'train': 'alpot-train', 'md': 'alpot-md', 'evaluate': 'alpot-evaluate'}
generators = {'supercell': {'repeats': [[1, 1, 1], [2, 1, 1], [2, 2, 2]]}, 'vacancy': {'n_sources': 1}}
parameters = {'ELECTRONS': {'mixing_beta': 0.7}}
builder = ActiveLearningWorkChain.get_builder_from_protocol(
    structures={'silicon': bulk('Si', a=5.43)},
    codes={name: f'{program}@localhost' for name, program in programs.items()},
    protocol='fast',
    overrides={
        'seed': 1,
        'n_test_frames': 6,
        'augmentation': {'generators': generators},
        'labelling': {'pseudo_family': 'Debian/PBE', 'kpoints_distance': 0.55, 'parameters': parameters},
        'exploration': {'start_origins': ['supercell'], 'start_min_atoms': 16, 'same_starts': True},
        'evaluation': {'tolerance': {'forces': 0.2}, 'max_select': 8},
    },
)
results, node = run_get_node(builder)
ending = results['results']['ended_by'] if node.is_finished_ok else node.exit_message
print(f'campaign {node.pk} ended with exit code {node.exit_status}: {ending}')
