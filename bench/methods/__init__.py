"""How the file of an attack, a defense or a network is read, hashed and loaded.

May import: `api`, `keys`, `types`. Imports no torch: a method's file is read as a syntax tree until it must run.
Start at ``declarations`` (what a file registers), then ``sources`` (its hash) and ``loading`` (its import).
"""
