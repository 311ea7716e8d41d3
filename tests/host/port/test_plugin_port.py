"""What a plugin asks of its host, as its port takes it."""

import math
from types import SimpleNamespace

import msgspec
import pytest

from host.port.plugin_port import LONGEST_CALL, PluginPort
from plugin_sdk.manifest import Permissions


@pytest.mark.parametrize(
    ("asked", "waited"),
    [(0.5, 0.5), (0.0, 0.001), (-1.0, 0.001), (math.nan, 0.001), (-math.inf, 0.001), (math.inf, LONGEST_CALL)],
)
async def test_a_call_waits_for_a_number_of_seconds_whatever_its_caller_says(asked, waited):
    found = []

    class Services:
        async def call(self, plugin, method, arguments, *, chain, timeout, traceparent):
            found.append((plugin, method, arguments, chain, timeout, traceparent))
            return "done"

    nothing = SimpleNamespace()
    port = PluginPort(
        "shop",
        granted=Permissions(call=("mailer.*",)),
        bus=nothing,
        key_values=nothing,
        guard=nothing,
        audit=nothing,
        services=Services(),
    )
    answer = await port.call("mailer.send", b'{"to":"ann"}', asked, ["orders"], "")
    assert msgspec.json.decode(answer) == "done"
    assert found == [("mailer", "send", {"to": "ann"}, ["orders", "shop"], waited, "")]
