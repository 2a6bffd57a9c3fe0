"""The loss as MACE prints it."""

from __future__ import annotations

from aiida_alpot.worker.training.mace.loss import parse_loss

ASKED = {'energy': 1.0, 'forces': 10.0, 'stress': 1e-4}
OUTPUT = """\
2026-11-20 15:39:42.849 INFO: Learning rate: 0.3, weight decay: 5e-07
2026-11-20 15:39:42.849 INFO: UniversalLoss(energy_weight=1.000, forces_weight=10.000, stress_weight=0.000)
2026-11-20 15:39:42.849 INFO: ZeroLoss in a sentence (energy_weight=3)
2026-11-20 15:39:42.849 INFO: Stage Two (after 3 epochs) with loss function: UniversalLoss(energy_weight=9.0), and more
"""


def test_weights_are_read() -> None:
    """A weight that is printed as zero is believed where so small a one was asked for."""
    assert parse_loss(OUTPUT, ASKED) == {
        'name': 'UniversalLoss',
        'weights': {'energy': 1.0, 'forces': 10.0, 'stress': 1e-4},
    }
    assert parse_loss(OUTPUT, {**ASKED, 'stress': 1.0})['weights']['stress'] == 0.0


def test_a_property_that_is_not_there() -> None:
    """Is not in the weights."""
    output = OUTPUT.replace(', stress_weight=0.000', '')
    assert parse_loss(output, ASKED)['weights'] == {'energy': 1.0, 'forces': 10.0}


def test_nothing_printed() -> None:
    """E.g. by a job that was killed."""
    assert parse_loss('', ASKED) == {'name': 'not printed', 'weights': {}}
