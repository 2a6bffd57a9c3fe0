"""How much memory a batch may take."""

import subprocess
import sys

import pytest

from aiida_alpot.worker.potentials.memory import (
    FRACTION_ON_GPU,
    MAXIMUM_ON_GPU,
    MEMORY_ON_CPU,
    check_device,
    memory_for_batches,
)


@pytest.mark.parametrize(('free', 'expected'), [(4e9, FRACTION_ON_GPU * 5e9), (140e9, MAXIMUM_ON_GPU)])
def test_on_a_gpu_half_of_what_is_free(monkeypatch, free, expected):
    """What torch holds but does not use is free too."""
    import torch

    monkeypatch.setattr(torch.cuda, 'mem_get_info', lambda device: (int(free), int(200e9)))
    monkeypatch.setattr(torch.cuda, 'memory_reserved', lambda device: int(3e9))
    monkeypatch.setattr(torch.cuda, 'memory_allocated', lambda device: int(2e9))
    assert memory_for_batches(torch.device('cuda')) == expected
    assert memory_for_batches(torch.device('cpu')) == MEMORY_ON_CPU


def test_a_gpu_that_is_not_there(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(ValueError, match="`device` is 'cuda', but torch finds no such device"):
        check_device('cuda')
    check_device('cpu')


def test_freed_memory_is_kept():
    """In a process of its own: the setting is one of the process. 64 MB stay resident after they are freed."""
    code = """
import numpy as np
from aiida_alpot.worker.potentials.memory import keep_freed_memory

def resident():
    return int(open('/proc/self/statm').read().split()[1]) * 4096

kept = keep_freed_memory()
arrays = [np.ones(2**20) for _ in range(16)]
del arrays
before = resident()
arrays = [np.ones(2**20) for _ in range(16)]
del arrays
print(kept, resident() > 64e6 and abs(resident() - before) < 8e6)
"""
    out = subprocess.run([sys.executable, '-c', code], check=True, capture_output=True, text=True).stdout.split()
    if out[0] == 'False':
        pytest.skip('the C library has no mallopt')
    assert out == ['True', 'True']
