"""Tables, comparisons and figures, from results alone.

May import: `store`, `data`, `registry` and what is below them; the figures that look inside a network also `evaluation`
and `models`. Never `schedule`.
Start at ``leaderboard.tables.build``: results in, tables out. ``render`` writes them, ``comparison`` compares two runs.
"""
