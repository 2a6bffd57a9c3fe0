from aiida_alpot.worker.seeds import derive_seed


def test_seeds_are_reproducible_and_in_range():
    seeds = [derive_seed(7, 'member', i) for i in range(1000)]
    assert seeds == [derive_seed(7, 'member', i) for i in range(1000)]
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert len(set(seeds)) == 1000


def test_seeds_depend_on_every_label():
    seeds = {
        derive_seed(1, 'a', 2),
        derive_seed(2, 'a', 2),
        derive_seed(1, 'b', 2),
        derive_seed(1, 'a', 3),
        derive_seed(1),
    }
    assert len(seeds) == 5


def test_seed_is_frozen():
    """A change of the recipe would silently change every campaign that is run again."""
    assert (
        derive_seed(42, 'training', 0)
        == int.from_bytes(bytes.fromhex(__import__('hashlib').sha256(b'42/training/0').hexdigest()[:8]), 'big') // 2
    )
