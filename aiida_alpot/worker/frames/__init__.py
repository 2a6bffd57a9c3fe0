"""The frame store: labelled structures in content-addressed HDF5 shards, and their bridges to other formats."""

from .batches import Batch, batches
from .formats import LabelDeclaration, read_extxyz, read_frames, write_extxyz, write_frames
from .frame import ISOLATED_ATOM, PROPERTIES, SPLITS, Frame
from .level_of_theory import LevelOfTheory, check_one_level
from .shard import SCHEMA_VERSION, ShardError, check_shard_name, hash_file, open_shard, write_shard
from .splits import assign_splits
from .store import FrameStore, upgrade_shard

__all__ = [
    'ISOLATED_ATOM',
    'PROPERTIES',
    'SCHEMA_VERSION',
    'SPLITS',
    'Batch',
    'Frame',
    'FrameStore',
    'LabelDeclaration',
    'LevelOfTheory',
    'ShardError',
    'assign_splits',
    'batches',
    'check_one_level',
    'check_shard_name',
    'hash_file',
    'open_shard',
    'read_extxyz',
    'read_frames',
    'upgrade_shard',
    'write_extxyz',
    'write_frames',
    'write_shard',
]
