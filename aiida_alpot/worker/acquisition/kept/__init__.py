"""What a committee said is kept in a folder, so that no frame is evaluated twice with the same models."""

from aiida_alpot.worker.acquisition.kept.committee import KeptCommittee
from aiida_alpot.worker.acquisition.kept.identity import committee_digest, frame_keys
from aiida_alpot.worker.acquisition.kept.keeping import FOLDER, Keeping
from aiida_alpot.worker.acquisition.kept.progress import PROGRESS, Progress
from aiida_alpot.worker.acquisition.kept.signal import KeptSignal
from aiida_alpot.worker.acquisition.kept.store import Store
from aiida_alpot.worker.acquisition.kept.table import Table

__all__ = [
    'FOLDER',
    'PROGRESS',
    'Keeping',
    'KeptCommittee',
    'KeptSignal',
    'Progress',
    'Store',
    'Table',
    'committee_digest',
    'frame_keys',
]
