from hypothesis import settings

# The same examples on every machine, however slow it is at the moment.
settings.register_profile("crossfire", deadline=None, derandomize=True)
settings.load_profile("crossfire")

# Begun first, so that at the end no process is left alone with one of them.
LONGEST = ("paper/test_paper_runs.py", "schedule/test_ray.py", "engine/test_golden.py", "faults/test_kills.py")


def pytest_collection_modifyitems(items):
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get("/".join(item.path.parts[-2:]), len(LONGEST)))
