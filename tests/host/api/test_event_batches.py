"""Batches over HTTP where the log refuses: a sender has to tell what is wrong with it from what is wrong here."""

import asyncio
import json

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from host.api.bodies import BODIES, Bodies
from host.api.middlewares import edge
from host.api.resources.publishing import BASE, Publishing
from host.observe.metrics import RequestCounts
from host.routing.bus import Bus
from host.routing.errors import EventConflictError, LogFullError, PublishRateError
from host.routing.event_log import Appended
from host.storage.errors import StorageFailedError

BATCH = {"Content-Type": "application/cloudevents-batch+json"}
FULL = StorageFailedError("is the disk full?", retry_after=1.0)


class ScriptedLog:
    """A log that answers events one after the other as it is told."""

    def __init__(self, *answers):
        self._answers = list(answers)

    def append(self, event, body):
        answer = self._answers.pop(0)
        found = asyncio.get_running_loop().create_future()
        if isinstance(answer, Exception):
            found.set_exception(answer)
        else:
            found.set_result(Appended(answer, duplicate=False))
        return found


async def send(*answers):
    """A batch of as many events as there are answers of the log; the response and its body."""
    events = Publishing(Bus(ScriptedLog(*answers), max_body=2**20), 2**20)
    publish = edge(RequestCounts(), events.publish, quiet=True)

    async def served(request):
        request[BODIES] = Bodies()
        return await publish(request)

    app = web.Application()
    app.router.add_post(BASE, served)
    batch = [{"specversion": "1.0", "id": str(at), "source": "/t", "type": "a"} for at in range(len(answers))]
    async with (
        TestClient(TestServer(app)) as client,
        client.post(BASE, data=json.dumps(batch), headers=BATCH) as response,
    ):
        return response, await response.json()


async def test_where_some_are_taken_each_of_the_others_has_its_own_status_and_code():
    response, answer = await send(1, FULL, 2, EventConflictError("/t", "3"), LogFullError("full"))
    assert response.status == 202
    assert [one["status"] for one in answer["data"]] == [202, 503, 202, 409, 503]
    assert [one.get("code") for one in answer["data"]] == [
        None,
        "storage_unavailable",
        None,
        "event_conflict",
        "log_full",
    ]


@pytest.mark.parametrize(
    ("refusal", "status", "code"),
    [
        (FULL, 503, "storage_unavailable"),
        (LogFullError("full", retry_after=5.0), 503, "log_full"),
        (PublishRateError("slow down", retry_after=1.0), 429, "rate_limited"),
    ],
)
async def test_a_batch_that_the_host_cannot_take_now_is_to_be_sent_again(refusal, status, code):
    response, answer = await send(refusal, refusal)
    assert (response.status, answer["code"]) == (status, code)
    assert int(response.headers["Retry-After"]) >= 1
