"""Sweeps on disk: every finished chunk is kept, whatever happens to the process.

Imported late, for zarr takes its time.
"""
