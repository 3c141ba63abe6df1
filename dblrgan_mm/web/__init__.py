"""Restore videos from a page in a browser."""
