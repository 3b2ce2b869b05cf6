"""Measurements of quality, for `qqmem eval`."""
