"""The frame store: labelled structures in content-addressed HDF5 shards, and their bridges to other formats."""

from .extxyz import read_extxyz, write_extxyz
from .frame import SPLITS, Frame
from .shard import SCHEMA_VERSION, ShardError, check_shard_name, hash_file, open_shard, write_shard
from .splits import assign_splits
from .store import FrameStore

__all__ = [
    'SCHEMA_VERSION',
    'SPLITS',
    'Frame',
    'FrameStore',
    'ShardError',
    'assign_splits',
    'check_shard_name',
    'hash_file',
    'open_shard',
    'read_extxyz',
    'write_extxyz',
    'write_shard',
]
