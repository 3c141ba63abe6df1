"""Clips on disk: single frames, benchmark folders and the clip store.

Only ``device_clips`` imports torch and nothing imports MMagic, so the converters in ``tools/``
start quickly.
"""
