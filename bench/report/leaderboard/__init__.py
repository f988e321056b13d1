"""The leaderboard as data: results in, rows, verdicts and notes out. How they look is decided in ``render``.

May import: `store`, `registry`, `keys`, `stats`, `types`, `visible`.
Start at ``tables.build``; a row is made in ``summaries``, whether it is sound is decided in ``soundness``.
"""
