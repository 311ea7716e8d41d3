import pytest
import structlog
from keeper_rig import keeper_rig

from host.lifecycle import trouble


@pytest.fixture
async def keepers(tmp_path, monkeypatch):
    """Real keepers over runtimes that are functions of the test; what failed is tried again soon."""
    monkeypatch.setattr(trouble, "FIRST_SECONDS", 0.01)
    monkeypatch.setattr(trouble, "LONGEST_SECONDS", 0.05)
    with structlog.testing.capture_logs():
        async with keeper_rig(tmp_path) as made:
            yield made


@pytest.fixture
async def plugin(keepers):
    """One plugin, `p`, that runs."""
    await keepers.install("p", permissions={"secrets": ("key",), "subscribe": ("p.*",)})
    keepers.reconciler.start()
    await keepers.until_running("p")
    return keepers
