"""Adversarial sets of finished cells, written to files that others can use: NumPy's npz, Parquet, PNG.

Start at ``kept.read``: the set of a cell, part by part, so that memory does not grow with the set. ``npz``, ``table``
and ``pictures`` each write one format.
"""
