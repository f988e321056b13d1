"""From TOML to the checked rows and columns of a table. The presets are here too.

May import: `registry`, `methods`, `types`. Imports no torch.
Start at ``sections.load``: a file as checked sections; then ``expand``: sections as defenses and attacks.
"""
