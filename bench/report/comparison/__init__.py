"""Two runs, image by image: pairs of cells, significant changes, and the comparison as text, Markdown and JSON.

May import: `report.leaderboard`, `report.render`, `store` and the modules below them.
Start at ``compare.compare``; ``pairing`` finds the cell of the base for each cell of the head.
"""
