"""From a configuration to a plan, and from a plan to results.

May import: `training`, `evaluation`, `models`, `data`, `config`, `store`, `registry`, `methods`, `process`,
`differences`, `keys`, `anytime`, `stats`, `types`, `outcomes`.
Start at ``plan.make`` (every cell and its key), then ``run.Runner`` (what is missing is computed).
"""
