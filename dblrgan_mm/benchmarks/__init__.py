"""What ``tools/benchmark.py`` measures: restoring, training, loading, and the machine's limits."""
