"""The leaderboard as text: terminal, HTML page, Markdown, CSV, LaTeX, JSON, and model cards of RobustBench.

May import: `report.leaderboard`, `store`, `data`, `keys`, `types`, `visible`. A renderer computes no number of its own.
Start at ``export.FORMATS`` and ``html.render``; ``text`` says how a number is written, the same in each of them.
"""
