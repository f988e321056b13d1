"""Keeping a process in order whatever a method does in it: time limits, signals, global state put back.

May import: `types`.
Start at ``isolation`` (restores state after a method) and ``ending`` (decides when work must end, and ends it).
"""
