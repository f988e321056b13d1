"""Tables, comparisons and figures, from results alone.

May import: `training`, `evaluation`, `models`, `data`, `config`, `registry`, `methods`, `store`, `process`,
`differences`, `keys`, `anytime`, `equivalence`, `stats`, `types`, `outcomes`, `visible`. Only figures that look inside
a network run one, and nothing imports `schedule`.
Start at ``leaderboard.tables.build``: results in, tables out. ``render`` writes them, ``comparison`` compares two runs.
"""
