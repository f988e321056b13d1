"""The networks that come with Crossfire, networks of other libraries, and weights trained elsewhere.

May import: `data`, `store`, `registry`, `methods`, `process`, `api`, `keys`, `types`.
Start at ``build.build``: a reference as a network on a device.
"""
