"""Many runs over time: lines over commits, the changes that a paired test calls real, as text, tables and a page.

May import: `report.comparison`, `report.leaderboard`, `report.render`, `store` and the modules below them.
Start at ``build.build``; ``lines`` says what may be joined, ``changes`` what is real.
"""
