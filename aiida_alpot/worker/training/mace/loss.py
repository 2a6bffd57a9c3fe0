"""The loss of a training, from what ``mace_run_train`` has printed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

PRINTED = r'^.*INFO: (\w+)\(((?:\w+_weight=[^,()]+(?:, )?)+)\)\s*$'
"""The loss as it is printed before the training; that of stage two stands within a sentence."""

PRINTED_WEIGHT = 5e-4
"""Weights below this are printed as zero."""


def parse_loss(output: str, asked: Mapping[str, float]) -> dict[str, Any]:
    """Class of the loss and the weight of each property in it; three decimals of a weight are printed.

    :param asked: weights that were asked for; one so small that it is printed as zero is believed.
    """
    found = re.findall(PRINTED, output, flags=re.MULTILINE)
    if not found:
        return {'name': 'not printed', 'weights': {}}
    name, text = found[-1]
    weights = {}
    for key, value in re.findall(r'(\w+)_weight=([^,()]+)', text):
        small = asked.get(key, 0.0)
        if key in asked:
            weights[key] = float(value) or (small if small < PRINTED_WEIGHT else 0.0)
    return {'name': name, 'weights': weights}
