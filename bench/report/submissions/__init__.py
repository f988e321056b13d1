"""A public leaderboard: a folder of submissions by people who do not trust each other, read, merged and rendered.

Start at ``form``, which says what a submitter writes; ``read`` opens the folder within bounds, ``arrivals`` asks git
which file was there first, ``reports`` knows what a check of this side has shown, ``identity`` of which weights that
is, ``merge`` decides which result counts, by ``weights`` on whose networks, ``remarks`` says what is there under two
names, and ``render`` writes the tables. ``plain`` asks ``merge`` of receipts without a submission around them.
"""
