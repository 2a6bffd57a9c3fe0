"""Containers of labelled structures that ``benchmarks/frame_store.py`` compares, each used as its users would.

All of them take ASE structures with a single-point calculator, and give them back, or their arrays in batches of
:data:`BATCH` structures, in bounded memory.
"""

from .contents import ARRAYS, BATCH, Contents, structures
from .ours import STORE_OPERATIONS, FrameShards
from .peers import PEERS, Container

ALL: tuple[type[Container], ...] = (FrameShards, *PEERS)
CONTAINERS = {container.name: container for container in ALL}

__all__ = [
    'ARRAYS',
    'BATCH',
    'CONTAINERS',
    'PEERS',
    'STORE_OPERATIONS',
    'Container',
    'Contents',
    'FrameShards',
    'structures',
]
