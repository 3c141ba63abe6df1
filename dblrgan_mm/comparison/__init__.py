"""One table for many restorers: what ``tools/compare.py`` is made of."""
