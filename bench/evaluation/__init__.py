"""One attack, one defense, one number: the only place where an attack meets what it attacks.

May import: `models`, `data`, `store` and what is below them; never `config` or `schedule`.
Start at ``measure`` (one cell), then ``evaluate`` (craft, audit, predict) and ``target`` (what an attack sees).
"""
