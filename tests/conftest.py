from hypothesis import settings

# The same examples on every machine, however slow it is at the moment.
settings.register_profile("crossfire", deadline=None, derandomize=True)
settings.load_profile("crossfire")
