"""Cases of the benchmark of acquisition, by part."""
