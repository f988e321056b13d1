"""Two runs, image by image: which cells answer each other, what changed for sure, and how that is written.

May import: `report.leaderboard`, `report.render`, `store` and the modules below them.
Start at ``compare.compare``; ``pairing`` finds the cell of the base for each cell of the head.
"""
