"""The OpenAPI document is held against the daemon by a tool that knows neither: schemathesis.

It makes requests that fit the document and requests that do not, and looks whether each answer is what the document
says of it: status, content type, schema, and that what does not fit is refused.
"""

import asyncio
import subprocess
import sys

import pytest

CHECKS = (
    *("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance"),
    *("response_schema_conformance", "negative_data_rejection", "missing_required_header", "unsupported_method"),
    *("allow_header_conformance", "use_after_free", "ensure_resource_availability", "ignored_auth"),
)
"""All that make sense. Not `positive_data_acceptance`: a schema cannot say that a time must lie in the future, that a
key must be one, or that a subscription needs its plugin, so some of what fits the document is refused."""

CONFIG = """[parameters]
"path.id" = "none"

[[operations]]
include-operation-id-regex = "^(show|list)"
[operations.parameters]
"path.id" = "teamwork"
"path.name" = "created"
"""
"""What only reads is asked of a plugin that is there; what changes it would take seconds each time."""


@pytest.fixture(scope="module")
def host(tmp_path_factory, signed, wheels, daemon_class):
    one = daemon_class(tmp_path_factory.mktemp("schemathesis"), log={"level": "warning"}).start()

    async def fill():
        await one.trust(signed.public, ["teamwork"])
        status, answer = await one.install(wheels["teamwork"])
        assert status == 201, answer
        for number in range(3):
            status, answer = await one.publish("milestone.created", data={"milestoneId": f"m{number}", "userId": "u"})
            assert status == 202, answer
        status, answer = await one.publish("milestone.created", data="no milestone")
        assert status == 202, answer

        async def dead_letter():
            return (await one.ask("GET", "/api/v1/dead-letters"))[1]["data"]

        await one.until(dead_letter)

    asyncio.run(fill())
    yield one
    assert one.stop() == 0


@pytest.mark.timeout(180)
def test_the_daemon_answers_as_its_openapi_document_says(host, tmp_path):
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    arguments = [
        *("run", host.url + "/api/openapi.json", "--header", f"Authorization: Bearer {host.token}"),
        *("--checks", ",".join(CHECKS), "--phases", "examples,coverage,fuzzing", "--max-examples", "15"),
        *("--seed", "1", "--generation-deterministic"),
        *("--continue-on-failure", "--warnings", "off", "--no-color", "--request-timeout", "30"),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "schemathesis.cli", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert done.returncode == 0, done.stdout[-30000:] + done.stderr[-2000:]
    assert "No issues found" in done.stdout, done.stdout[-2000:]
    assert not host.logged("request_crashed")
    status, answer = asyncio.run(host.ask("GET", "/api/v1/plugins/teamwork"))
    assert (status, answer["data"]["state"]) == (200, "running")
