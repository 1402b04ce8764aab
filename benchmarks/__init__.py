"""Crelle against the frameworks' own functions, in one run, as ratios: ``python -m benchmarks``."""
