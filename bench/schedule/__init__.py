"""From a configuration to a plan, and from a plan to results.

May import: `training`, `evaluation`, `config` and what is below them; never `report`.
Start at ``plan.make`` (every cell and its key), then ``run.Runner`` (what is missing is computed).
"""
