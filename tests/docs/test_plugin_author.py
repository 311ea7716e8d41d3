"""The guide for plugin authors: its examples work, and its tables say what the code says."""

import ast
import inspect
import json
import re
from pathlib import Path

import pytest

from plugin_sdk import HostError, Request, new_event
from plugin_sdk.delivery import DeliveryPolicy
from plugin_sdk.filters import compile_filters
from plugin_sdk.filters.dialects import DIALECTS
from plugin_sdk.filters.operators import OPERATORS
from plugin_sdk.manifest import Manifest
from plugin_sdk.testing import PluginHarness
from plugin_sdk.webhooks import SCHEMES
from plugin_sdk.webhooks.endpoint import OWN

GUIDE = (Path(__file__).parents[2] / "docs" / "plugin-author.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| (.+) \|$", re.MULTILINE)
QUOTED = re.compile(r"`([^`]+)`")


def section(title):
    """What stands under a heading of the guide."""
    found = GUIDE.partition(f"## {title}\n")[2].partition("\n## ")[0]
    assert found, f"the guide has no section '{title}'"
    return found


def examples(title, language="python"):
    return re.findall(rf"```{language}\n(.*?)```", section(title), re.DOTALL)


def run(source, **names):
    """Run an example; what it defines."""
    exec(compile(source, "plugin-author.md", "exec"), names)  # noqa: S102 - an example of our own
    return names


def table(title, heading):
    """The rows of a section's table whose first column has that heading, as lists of cells."""
    text = section(title)
    found = text[text.index(f"| {heading} |") :].partition("\n\n")[0]
    return [row.split(" | ") for row in ROW.findall(found)[1:] if not row.startswith("-")]


def quoted(rows):
    """Everything in backquotes in the first column."""
    return [one for row in rows for one in QUOTED.findall(row[0])]


@pytest.mark.parametrize("source", re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL))
def test_every_example_is_python(source):
    compile(source, "plugin-author.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


async def test_the_first_plugin_passes_the_test_that_the_guide_has_for_it():
    plugin = run(examples("Code")[0])
    names = run(examples("Test")[0], Orders=plugin["Orders"])
    await names["test_an_order_is_kept"]()


# -- delivery


async def test_the_example_of_a_policy_retries_drops_and_delivers_as_it_says():
    invoices = run(examples("How events are delivered")[0])["Invoices"]
    (subscription,) = invoices().describe().subscriptions
    assert (subscription.order, subscription.attempts, subscription.max_age) == ("by-key", 20, 86_400)
    async with PluginHarness(invoices) as plugin:
        assert (await plugin.deliver("invoice.drafted")).outcome == "dropped"
        closed = await plugin.deliver("invoice.sent", subject="1")
        assert (closed.outcome, closed.after) == ("retried", 300)
    async with PluginHarness(invoices, kv={"books-open": b"true"}) as plugin:
        assert (await plugin.deliver("invoice.sent", subject="1", data={"total": 5})).outcome == "delivered"
        assert plugin.value("invoice/1") == {"total": 5}
        assert [one.type for one in plugin.emitted] == ["invoice.booked"]


def test_the_table_of_the_policy_has_every_field_with_its_default():
    rows = table("How events are delivered", "field")
    found = {row[0].strip("`"): ast.literal_eval(row[1].strip("`")) for row in rows}
    parameters = inspect.signature(DeliveryPolicy).parameters.values()
    assert found == {one.name: one.default for one in parameters}


# -- filters


def test_the_test_of_the_filters_passes():
    run(examples("Filters")[0])["test_only_large_orders_from_here_are_taken"]()


def test_every_dialect_and_every_operator_has_an_example_that_is_allowed():
    dialects = [json.loads(one) for one in quoted(table("Filters", "dialect"))]
    assert {name for one in dialects for name in one} == set(DIALECTS)
    compile_filters(dialects)
    values = [json.loads(one) for one in quoted(table("Filters", "value"))]
    assert {name for one in values if isinstance(one, dict) for name in one} == set(OPERATORS)
    compile_filters([{"pattern": {"data": {"field": values}}}])


def test_all_fields_must_fit_in_the_same_element_of_an_array():
    (data,) = examples("Filters", "json")
    text = section("Filters").partition("```json")[2]
    fitting, other = (json.loads(one) for one in QUOTED.findall(text.partition("```\n")[2]) if one.startswith("{"))
    event = new_event("order.placed", source="/shop", data=json.loads(data))
    assert compile_filters([{"pattern": fitting}]).matches(event)
    assert not compile_filters([{"pattern": other}]).matches(event)


# -- webhooks


async def test_the_example_of_webhooks_is_within_its_manifest_and_takes_what_it_says():
    payments = run(examples("Webhooks from outside")[0])["Payments"]
    (permissions,) = examples("Webhooks from outside", "toml")
    manifest = Manifest.parse(f'[plugin]\nid = "payments"\ntitle = "Payments"\n{permissions}')
    assert manifest.check(payments().describe()) == ()
    async with PluginHarness(payments, secrets={"bank_token": "t"}, name="payments") as plugin:
        assert (
            await plugin.deliver("webhook.payments.stripe", id="evt_1", data={"type": "paid"})
        ).outcome == "delivered"
        assert plugin.value("payment/evt_1") == "paid"
        pushed = await plugin.deliver(
            "webhook.payments.code", data={"repository": "busbar"}, extensions={"xgithubevent": "push"}
        )
        assert pushed.outcome == "delivered"
        headers = {"x-token": "t", "x-message": "m-1"}
        taken = await plugin.request(Request("POST", "/hooks/bank", {}, headers))
        assert (taken.status, taken.headers) == (204, {"webhook-id": "m-1"})
        assert (await plugin.request(Request("POST", "/hooks/bank", {}, {**headers, "x-token": "no"}))).status == 403


def test_the_table_of_schemes_has_every_scheme():
    assert [row[0].strip("`") for row in table("Webhooks from outside", "scheme")] == [*SCHEMES, OWN]


# -- services


async def test_the_example_of_services_calls_and_is_called():
    shop = run(examples("Services")[0])["Shop"]
    sent = []

    def refuse(**_):
        raise HostError("mailer is disabled", "plugin_not_running")

    async with PluginHarness(shop, services={"mailer.send": lambda **mail: sent.append(mail)}) as plugin:
        assert (await plugin.deliver("order.placed", data={"email": "ada@example.com"})).outcome == "delivered"
        assert sent == [{"to": "ada@example.com", "text": "Thank you"}]
        assert await plugin.call("price", item="pen") == 250
    async with PluginHarness(shop, services={"mailer.send": refuse}) as plugin:
        waits = await plugin.deliver("order.placed", data={"email": "ada@example.com"})
        assert (waits.outcome, waits.reason) == ("retried", "mailer is disabled")


# -- manifest


def test_the_manifest_is_said_to_have_every_permission():
    listed = set(QUOTED.findall(section("Manifest").partition("`[permissions]`")[0]))
    assert set(type(Manifest.model_fields["permissions"].default).model_fields) <= listed
