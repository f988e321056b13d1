"""How a process stays in order whatever a method does in it: time limits, signals, global state put back.

May import: `types`.
Start at ``isolation`` (what is put back after a method) and ``ending`` (when work must end, and how).
"""
