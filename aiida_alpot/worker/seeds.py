"""Independent seeds for the parts of a campaign, all from the one seed that the user gives."""

import hashlib


def derive_seed(seed: int, *labels: str | int) -> int:
    """Seed of one part, in [0, 2**31), from the campaign's seed and the names of the part.

    Seeds of different parts are unrelated, and the seed of a part does not change when parts are added or reordered,
    as it would with a shared stream of random numbers.

    :param labels: what identifies the part, e.g. ``'training', 2, 'member', 0``.
    """
    text = '/'.join([str(int(seed)), *map(str, labels)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], 'big') >> 1
