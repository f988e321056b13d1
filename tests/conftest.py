import pytest
from hypothesis import settings

from bench.process.collection import no_collection

# The same examples on every machine, however slow it is at the moment.
settings.register_profile("crossfire", deadline=None, derandomize=True)
settings.load_profile("crossfire")

# They run first; otherwise one worker would still be busy with them after all others have ended.
LONGEST = ("paper/test_paper_runs.py", "schedule/test_ray.py", "engine/test_golden.py", "faults/test_kills.py")


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    # Modules and tests live to the end.
    with no_collection():
        return (yield)


def pytest_collection_modifyitems(items):
    ranks = {name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get("/".join(item.path.parts[-2:]), len(LONGEST)))
