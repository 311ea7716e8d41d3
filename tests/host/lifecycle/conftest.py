import pytest
import structlog
from keeper_rig import keeper_rig

from host.lifecycle import trouble


@pytest.fixture
def short_waits(monkeypatch):
    """What failed is tried again at once, as far as a test's patience goes."""
    monkeypatch.setattr(trouble, "FIRST_SECONDS", 0.01)
    monkeypatch.setattr(trouble, "LONGEST_SECONDS", 0.05)


@pytest.fixture
def logged():
    """What is logged, as values: to draw the traceback of each error that a test has raised would take most of it."""
    with structlog.testing.capture_logs() as lines:
        yield lines


@pytest.fixture
async def keepers(tmp_path, short_waits, logged):
    async with keeper_rig(tmp_path) as made:
        yield made
