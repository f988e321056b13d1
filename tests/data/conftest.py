import os
from pathlib import Path

import pytest

_DATA_FOLDER = os.environ.get("CROSSFIRE_DATA")


@pytest.fixture(autouse=True)
def isolated_environment(monkeypatch, tmp_path_factory):
    """Give every test its own cache, no data folder and no network."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.delenv("CROSSFIRE_DATA", raising=False)
    monkeypatch.setenv("CROSSFIRE_OFFLINE", "1")


@pytest.fixture
def real():
    """The folder of real images: $CROSSFIRE_DATA, else data/ in a folder named shared beside the checkout."""
    for folder in filter(None, (_DATA_FOLDER, Path(__file__).parents[3] / "shared" / "data")):
        if Path(folder).is_dir():
            return Path(folder)
    pytest.skip("no real images: set CROSSFIRE_DATA to a folder that holds them")
