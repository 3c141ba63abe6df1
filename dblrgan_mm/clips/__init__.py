"""Clips on disk: single frames, the folders of the benchmarks, the clip store.

Nothing here imports torch or MMagic, so the converters in ``tools/`` start at once.
"""
