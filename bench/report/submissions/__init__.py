"""A public leaderboard: a folder of submissions by people who do not trust each other, read, merged and rendered.

Reading: ``form`` says what a submitter writes, ``read`` opens the folder within bounds, ``arrivals`` asks git which
file was there first, ``reports`` knows what a check of this side has shown, and ``verify`` makes these.

Merging: ``merge`` decides which result counts, step by step. ``averaged``, ``identity`` and ``images`` say of what an
entry is; ``withdrawn``, ``copies`` and ``newer`` set results ``aside``; ``weights`` and ``seeds`` say whose network a
row is of; ``known`` orders what is left; ``marks`` and ``doubts`` flag it; ``broken_too`` and ``one_name`` are about
what tables make of it.

Writing: ``render`` writes the tables, and ``remarks`` what is there under two names. ``plain`` asks ``merge`` of
receipts without a submission around them.
"""
