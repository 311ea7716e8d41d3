from pathlib import Path

import pytest

from host.api.refusals import AT_ONCE, FIRST, LISTED, MAX_ADDRESSES, OTHERS, Refusals, Refused
from host.observe.audit import Audit
from host.storage.database import Database
from host.storage.errors import StorageFailedError
from plugin_sdk.testing import FakeClock


@pytest.fixture
async def audit(tmp_path: Path):
    clock = FakeClock()
    database = await Database.open(tmp_path / "busbar.db", clock=clock)
    yield Audit(database, clock)
    await database.close()


@pytest.fixture
def refusals(audit):
    return Refusals(audit)


def refused(remote="192.0.2.1", route="/api/v1/plugins", **more):
    found = {"actor": "unknown", "method": "GET", "path": route, "status": 401, "code": "unauthenticated", **more}
    return Refused(remote=remote, route=route, **found)


async def entries(audit):
    found, total = await audit.page(0, 1000)
    assert total == len(found)
    return found[::-1]


async def test_the_first_refusal_is_in_the_trail_before_its_answer_goes_out(refusals, audit):
    await refusals.note(refused(actor="token:ci", status=403, code="forbidden", token="abc"))
    (entry,) = await entries(audit)
    assert (entry.actor, entry.action, entry.target, entry.outcome) == (
        "token:ci",
        "access.refuse",
        "GET /api/v1/plugins",
        "refused",
    )
    assert entry.detail == {
        "address": "192.0.2.1",
        "path": "/api/v1/plugins",
        "status": 403,
        "code": "forbidden",
        "token": "abc",
    }


async def test_the_same_again_is_counted_and_written_once_for_the_interval(refusals, audit):
    for _ in range(100):
        await refusals.note(refused())
    assert len(await entries(audit)) == 1
    await refusals.write()
    _, more = await entries(audit)
    assert more.detail["more"] == {"unauthenticated": 99}
    await refusals.write()
    assert len(await entries(audit)) == 2


async def test_what_differs_has_an_entry_of_its_own(refusals, audit):
    for one in (refused(), refused(actor="anonymous"), refused(route="/api/v1/tokens"), refused(code="forbidden")):
        await refusals.note(one)
    assert len(await entries(audit)) == 4


async def test_an_address_has_few_entries_however_it_varies_what_it_asks(refusals, audit):
    for number in range(1000):
        await refusals.note(refused(method=f"M{number}"))
    await refusals.write()
    found = await entries(audit)
    assert len(found) == FIRST + 1
    assert found[-1].detail["more"] == {"unauthenticated": 1000 - FIRST}


async def test_a_thousand_addresses_have_few_entries_and_each_refusal_is_in_a_count(refusals, audit):
    addresses = MAX_ADDRESSES + 50
    for number in range(addresses):
        for _ in range(2):
            await refusals.note(refused(f"10.0.{number // 256}.{number % 256}"))
    await refusals.write()
    found = await entries(audit)
    assert len(found) == AT_ONCE + LISTED + 1
    assert found[-1].detail["address"] == OTHERS
    counted = sum(sum(one.detail.get("more", {}).values()) for one in found)
    assert counted + AT_ONCE == addresses * 2


async def test_a_path_is_kept_short_and_can_be_written(refusals, audit):
    await refusals.note(refused(path="/p/\udcff\x1b" + "x" * 100_000, method="M" * 9000))
    (entry,) = await entries(audit)
    assert len(entry.detail["path"]) == 200
    assert len(entry.target) < 100


async def test_a_trail_that_cannot_be_written_makes_no_other_answer_and_loses_no_count(audit):
    class Full:
        full = True

        async def record(self, **entry):
            if self.full:
                raise StorageFailedError("the disk is full")
            await audit.record(**entry)

    full = Full()
    refusals = Refusals(full)
    await refusals.note(refused())
    full.full = False
    await refusals.write()
    (entry,) = await entries(audit)
    assert entry.detail["more"] == {"unauthenticated": 1}


async def test_refusals_are_counted_by_status_and_code(refusals):
    await refusals.note(refused())
    await refusals.note(refused(status=403, code="forbidden"))
    await refusals.note(refused())
    (family,) = refusals.metrics()
    assert {
        tuple(sample.labels.values()): sample.value for sample in family.samples if sample.name.endswith("_total")
    } == {
        ("401", "unauthenticated"): 2,
        ("403", "forbidden"): 1,
    }
