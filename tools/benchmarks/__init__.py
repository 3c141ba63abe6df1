"""The measurements of ``tools/benchmark.py``: restoring, training, loading, machine limits."""
