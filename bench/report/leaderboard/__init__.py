"""The leaderboard as data: results in, rows and verdicts out. Nothing is formatted here.

May import: `store`, `data`, `registry` and the modules below them.
Start at ``tables.build``; a row is made in ``summaries``, whether it is sound is decided in ``soundness``.
"""
