"""Receipts: one file with what a stranger needs to check a cell, written, read, and judged.

Start at ``form``, which says what is in the file; ``write`` makes one from a store, ``read`` opens one that may be
forged, ``claims`` says where it contradicts itself, ``names`` where it is called what it is not, ``passes`` where it is
not plausible, ``check`` whether it holds, and ``table`` makes tables of receipts.
"""
