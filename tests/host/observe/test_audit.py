import pytest

from host.observe import audit as audit_module
from host.observe.audit import Audit
from host.storage.database import Database
from plugin_sdk.testing import FakeClock


@pytest.fixture
async def trail(tmp_path, monkeypatch):
    monkeypatch.setattr(audit_module, "KEPT", 30)
    monkeypatch.setattr(audit_module, "KEPT_REFUSALS", 20)
    monkeypatch.setattr(audit_module, "TRIMMED_EVERY", 10)
    clock = FakeClock()
    database = await Database.open(tmp_path / "busbar.db", clock=clock)
    yield Audit(database, clock)
    await database.close()


async def write(trail, count, outcome):
    for number in range(count):
        await trail.record(actor="a", action="b", target=str(number), detail={}, outcome=outcome)


async def kept(trail, outcome):
    found, _ = await trail.page(0, 1000)
    return [one.target for one in reversed(found) if one.outcome == outcome]


async def test_refusals_without_end_push_no_change_out_of_the_trail(trail):
    await write(trail, 25, "done")
    await write(trail, 500, "refused")
    assert await kept(trail, "done") == [str(number) for number in range(25)]
    assert 20 <= len(await kept(trail, "refused")) < 30


async def test_of_both_the_oldest_make_room(trail):
    await write(trail, 200, "done")
    await write(trail, 100, "refused")
    assert await kept(trail, "done") == [str(number) for number in range(170, 200)]
    assert await kept(trail, "refused") == [str(number) for number in range(80, 100)]
