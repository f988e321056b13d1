"""How work is shown while it is done: bars on a terminal and in a notebook, lines elsewhere, and guarded streams.

May import: `store`, `process`, `types`, `visible`. Imports no torch.
Start at ``base.Display``, which keeps what a command does; ``choice`` says which display is used where.
"""
