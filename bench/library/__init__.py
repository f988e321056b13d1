"""The harness from Python: networks, defenses, attacks and images as objects, through the engine of the command line.

May import: `report`, `schedule`, `evaluation`, `models`, `data`, `config`, `store`, `registry`, `methods`, `display`,
`process`, `keys`, `types`.
Start at ``evaluate``, which measures; ``craft`` returns adversarial images.
"""
