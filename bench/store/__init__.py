"""What is kept: the working store, results in git, and the files that they are read from and written to.

May import: the modules below the packages (`types`, `outcomes`, `keys`, `stats`, `visible`). Imports no torch.
Start at ``working_store.Store``: where a result, an adversarial set and a training lie. ``history`` is results in git.
"""
