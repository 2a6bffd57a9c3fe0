"""When a training counts as diverged, and when not."""

from __future__ import annotations

import math
import signal

import numpy as np
import pytest

from aiida_alpot.worker.training.trainer import Epoch
from aiida_alpot.worker.training.watching import divergence, is_out_of_memory, last_words


def curve(*losses: float | None, validation: tuple[float | None, ...] = ()) -> list[Epoch]:
    other = validation or (None,) * len(losses)
    return [Epoch(i, train_loss=a, loss=b) for i, (a, b) in enumerate(zip(losses, other, strict=True))]


@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf])
def test_not_finite(value: float) -> None:
    assert divergence(curve(1.0, 0.5, value)) == 'the training loss is not finite at epoch 2'
    found = divergence(curve(1.0, 0.5, 0.1, validation=(1.0, value, 1.0)))
    assert found == 'the validation loss is not finite at epoch 1'


def test_exploding() -> None:
    found = divergence(curve(1.0, 1e-3, 50.0, 3e4))
    assert found == 'the training loss has exploded to 3e+04 at epoch 3, from 0.001 at its lowest'
    assert divergence(curve(1.0, 1e-2, 1e-2, 20.0, 21.0, 0.1)), 'that it came down again does not matter'


@pytest.mark.parametrize(
    'losses',
    [
        (),
        (None, None),
        (5.0,),
        (5.0, 80.0, 900.0, 3.0),  # the first epochs at a high learning rate
        (1.0, 1e-4, 50.0, 1e-4, 1e-5),  # one bad epoch
        (1.0, 0.1, 1e-3, 1e-5, 0.5, 0.4, 0.2),  # Stage Two: other weights, and a loss 1e4 times as high
        (1e-6, 1e-9, 5e-6, 4e-6, 1e-6),  # warm start
        (-1.0, -2.0, -3.0),  # likelihoods are negative
        (0.0, 0.0, 0.0),
    ],
)
def test_no_false_alarm(losses: tuple[float | None, ...]) -> None:
    assert divergence(curve(*losses)) == ''


def test_errors_that_are_nan_do_not_count() -> None:
    """A trainer may say nan where there is no label to compare with."""
    assert divergence([Epoch(1, train_loss=1.0, loss=1.0, stress=math.nan)]) == ''


def test_noisy_trainings_do_not_diverge() -> None:
    """Curves as trainings have them, with noise of a factor of two (two sigma) and Stage Two at two thirds."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        epochs = np.arange(300)
        loss = 10.0 ** rng.uniform(-1, 2) * np.exp(-epochs / rng.uniform(10, 100)) + 1e-4
        loss *= np.exp(rng.normal(scale=0.35, size=300))
        loss[200:] *= 10.0 ** rng.uniform(0, 2)
        assert divergence(curve(*loss.tolist())) == ''


@pytest.mark.parametrize(
    'words',
    [
        'torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB',
        'torch.cuda.OutOfMemoryError: CUDA out of memory.',
        "RuntimeError: [enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory",
        'numpy._core._exceptions._ArrayMemoryError: Unable to allocate 3.00 TiB',
        'MemoryError',
        'OSError: [Errno 12] Cannot allocate memory',
    ],
)
def test_out_of_memory(words: str) -> None:
    assert is_out_of_memory(1, f'epoch 3\n{words}\n')


def test_other_failures() -> None:
    assert is_out_of_memory(-signal.SIGKILL, '')
    assert not is_out_of_memory(-signal.SIGSEGV, 'epoch 3')
    assert not is_out_of_memory(1, 'ValueError: the memory of this is short')


def test_last_words() -> None:
    assert last_words('a\nb\n\nc\n  d \n') == 'b / c / d'
    assert last_words('') == 'it printed nothing'
