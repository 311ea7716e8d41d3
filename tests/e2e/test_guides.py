"""The guides for administrators and operators, tried out on a real daemon with the plugins of the authors' guide."""

import asyncio
import hashlib
import hmac
import json
import os
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import aiohttp
import pytest
from plugin_projects import write_project

DOCS = Path(__file__).parents[2] / "docs"
AUTHOR, ADMINISTRATOR, OPERATOR = (
    (DOCS / f"{name}.md").read_text(encoding="utf-8") for name in ("plugin-author", "administrator", "operator")
)
BLOCKS = dict(re.findall(r"<!-- try: (\w+) -->\n```sh\n(.*?)```", ADMINISTRATOR, re.DOTALL))
PLUGINS = ["invoices", "payments", "webhooks"]
PERMISSIONS = '[permissions]\nsubscribe = ["invoice.*"]\npublish = ["invoice.booked"]\n'


def example(title, language):
    """The first example of a section of the guide for authors."""
    return re.search(rf"\n## {title}\n.*?```{language}\n(.*?)```", AUTHOR, re.DOTALL)[1]


@pytest.fixture(scope="module")
def host(tmp_path_factory, signed, daemon_class):
    folder = tmp_path_factory.mktemp("projects")
    invoices = write_project(folder, "invoices", example("How events are delivered", "python"), manifest=PERMISSIONS)
    payments = write_project(
        folder,
        "payments",
        example("Webhooks from outside", "python"),
        manifest=example("Webhooks from outside", "toml"),
    )
    one = daemon_class(tmp_path_factory.mktemp("guides")).start()

    async def install():
        await one.trust(signed.public, PLUGINS)
        for project in (invoices, payments, DOCS.parent / "plugins" / "webhooks"):
            status, answer = await one.install(signed.build(project))
            assert status == 201, answer

    asyncio.run(install())
    yield one
    assert one.stop() == 0


@pytest.fixture
def paste(host, tmp_path):
    """Runs a block of the guide as a reader would; answers what it said."""

    async def run(name):
        script = BLOCKS[name].replace("http://127.0.0.1:8700", host.url)
        done = await asyncio.to_thread(
            lambda: subprocess.run(
                ["bash", "-euo", "pipefail", "-c", script],
                cwd=tmp_path,
                env={
                    **os.environ,
                    "BUSBAR_URL": host.url,
                    "BUSBAR_TOKEN": host.token,
                    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                },
                capture_output=True,
                text=True,
                timeout=60,
            )
        )
        assert done.returncode == 0, (done.stdout, done.stderr)
        return done.stdout

    return run


async def stripe(host, id_, secret):
    """Send a webhook as Stripe would; the status."""
    body, stamp = json.dumps({"id": id_, "type": "paid"}).encode(), int(time.time())
    signature = hmac.new(secret.encode(), f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()
    headers = {"Stripe-Signature": f"t={stamp},v1={signature}"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{host.url}/hooks/payments/stripe", data=body, headers=headers) as response,
    ):
        return response.status


async def test_the_examples_of_policies_dead_letters_and_replays_do_what_the_guide_says(host, paste):
    assert "administrator" in await paste("policies")
    # The books are closed, and there is one attempt: each becomes a dead letter.
    for number, total in enumerate((5, 500)):
        await host.publish("invoice.sent", id_=f"invoice-{number}", data={"total": total})

    async def letters():
        _, answer = await host.ask("GET", "/api/v1/dead-letters", params={"plugin": "invoices"})
        return [one["eventId"] for one in answer["data"]]

    async def both():
        return len(await letters()) == 2

    await host.until(both)
    said = await paste("letters")
    assert "delivered again: 2" in said
    assert "discarded: 1" in said
    assert await letters() == ["invoice-1"]
    said = await paste("skip")
    assert "would be given up: 0 events" in said
    assert "\ngiven up: 0 events" in said
    said = await paste("replay")
    assert "2 of events" in said
    assert "is done" in said


async def test_the_example_of_a_filter_answers_what_the_guide_says(paste):
    found = json.loads(await paste("filter"))["data"]
    shown = re.search(r"<!-- try: filter -->.*?```json\n(.*?)```", ADMINISTRATOR, re.DOTALL)[1]
    assert found == json.loads(shown)


async def test_a_secret_of_a_webhook_is_set_and_rotated_without_losing_a_message(host, paste):
    assert await stripe(host, "evt_0", "whsec_first") == 401
    await paste("secrets")
    assert await stripe(host, "evt_1", "whsec_first") == 202
    await paste("rotation")
    assert await stripe(host, "evt_2", "whsec_first") == 202
    assert await stripe(host, "evt_3", "whsec_second") == 202
    await paste("rotated")
    assert await stripe(host, "evt_4", "whsec_first") == 401
    assert await stripe(host, "evt_5", "whsec_second") == 202


async def test_an_endpoint_of_the_webhooks_plugin_is_made_as_the_guide_says(paste):
    _, _, made = (await paste("endpoints")).partition('"traceId"')
    assert '"url":"https://example.com/hook"' in made.replace(" ", "")
    assert "whsec_" in made


def test_every_example_is_tried_out():
    here = {name for name in BLOCKS if not name.startswith("trust_")}  # those are tried in test_cli_supply
    assert here == {"policies", "letters", "skip", "replay", "filter", "secrets", "rotation", "rotated", "endpoints"}
    assert ADMINISTRATOR.count("```sh") == len(BLOCKS)


async def test_every_metric_of_the_operators_guide_is_there(host):
    named = set(re.findall(r"`(busbar_\w+)`", OPERATOR + ADMINISTRATOR))
    assert len(named) > 10
    _, raw = await host.ask("GET", "/metrics")
    there = set(re.findall(r"^# TYPE (\w+)", raw.decode(), re.MULTILINE))
    assert named - there == set()


def test_every_option_of_the_operators_guide_is_in_the_settings_file():
    options = tomllib.loads((DOCS.parent / "config" / "busbar.toml").read_text())
    named = [(section, name) for section, name in re.findall(r"`([a-z]+)\.(\w+)`", OPERATOR) if section in options]
    assert len(named) > 5
    for section, name in named:
        assert name in options[section]
