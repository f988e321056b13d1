"""One attack, one defense, one number: the only place where an attack meets what it attacks.

May import: `models`, `data`, `store`, `registry`, `process`, `api`, `draws`, `keys`, `stats`, `types`, `outcomes`.
Start at ``measure`` (one cell), then ``craft`` (attack and audit), ``predict``, ``defense`` (a deployed
step) and ``target`` (what an attack sees).
"""
