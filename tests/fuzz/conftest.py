import pytest


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    """An empty folder to stand in, without image sets but digits."""
    here = tmp_path_factory.mktemp("fuzz")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        patch.setenv("CROSSFIRE_OFFLINE", "1")
        patch.delenv("CROSSFIRE_DATA", raising=False)
        patch.setenv("XDG_CACHE_HOME", str(here / "cache"))
        yield here
