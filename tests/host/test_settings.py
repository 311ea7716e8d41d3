import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from host.errors import ErrorKind
from host.settings import CLIENT_NAMES, Settings, SettingsError

SAMPLE = Path(__file__).parents[2] / "config" / "busbar.toml"


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Settings]:
    """Loads the settings of a file with this text, in this environment."""
    path = tmp_path / "busbar.toml"

    def load(text: str = "", **environment: str) -> Settings:
        path.write_text(text, encoding="utf-8")
        return Settings.load(path, environment)

    return load


# Where a setting comes from


def test_without_a_file_and_an_environment_every_option_has_its_default() -> None:
    settings = Settings.load(None, {})
    assert settings == Settings()
    assert (settings.server.host, settings.server.port) == ("127.0.0.1", 8700)
    assert settings.storage.directory == Path("var")
    assert not settings.auth.public_metrics


def test_the_sample_file_names_every_option_with_its_default() -> None:
    written = tomllib.loads(SAMPLE.read_text(encoding="utf-8"))
    sections = {name: set(type(section).model_fields) for name, section in Settings()}
    assert {name: set(options) for name, options in written.items()} == sections

    # What is trusted has no default; the file shows where it would be.
    loaded = Settings.load(SAMPLE, {})
    assert loaded.model_copy(update={"supply": Settings().supply}) == Settings()


@pytest.mark.parametrize(
    ("processes", "processors", "expected"),
    [("auto", 1, 0), ("auto", 2, 0), ("auto", 3, 1), ("auto", 6, 2), ("auto", 64, 3), ("0", 64, 0), ("2", 1, 2)],
)
def test_http_has_processes_of_its_own_where_there_are_processors_for_them_or_somebody_says_so(
    processes: str, processors: int, expected: int
) -> None:
    settings = Settings.load(None, {"BUSBAR_SERVER__PROCESSES": processes})
    assert settings.server.http_processes(processors) == expected


def test_an_option_in_the_file_replaces_its_default_and_no_other(load: Callable[..., Settings]) -> None:
    settings = load('[server]\nport = 9000\n[log]\nlevel = "debug"')
    assert settings.server == Settings().server.model_copy(update={"port": 9000})
    assert settings.log.level == "debug"
    assert settings.breaker == Settings().breaker


def test_the_environment_comes_before_the_file_option_by_option(load: Callable[..., Settings]) -> None:
    settings = load('[server]\nport = 9000\nhost = "::1"', BUSBAR_SERVER__PORT="9001")
    assert (settings.server.port, settings.server.host) == (9001, "::1")


@pytest.mark.parametrize(
    ("name", "value", "section", "option", "expected"),
    [
        ("BUSBAR_SERVER__PORT", "0", "server", "port", 0),
        ("BUSBAR_SERVER__EVENT_BODY", "2MiB", "server", "event_body", 2**21),
        ("BUSBAR_STORAGE__DIRECTORY", "/var/lib/busbar", "storage", "directory", Path("/var/lib/busbar")),
        ("BUSBAR_EVENTS__KEEP_FOR", "12h", "events", "keep_for", 43200),
        ("BUSBAR_RUNTIME__FIRST_RESTART", "250ms", "runtime", "first_restart", 0.25),
        ("BUSBAR_SANDBOX__MODE", "require", "sandbox", "mode", "require"),
        ("BUSBAR_LIMITS__LOG_LINES", "12.5", "limits", "log_lines", 12.5),
        ("BUSBAR_SUPPLY__DROP_IN_DIRECTORY", "/srv", "supply", "drop_in_directory", Path("/srv")),
        ("BUSBAR_AUTH__PUBLIC_METRICS", "true", "auth", "public_metrics", True),
        ("BUSBAR_AUTH__PUBLIC_METRICS", "false", "auth", "public_metrics", False),
    ],
)
def test_the_environment_sets_options_of_every_type(
    name: str, value: str, section: str, option: str, expected: object
) -> None:
    settings = Settings.load(None, {name: value})
    assert getattr(getattr(settings, section), option) == expected


def test_variables_of_others_and_of_the_command_line_are_no_settings(load: Callable[..., Settings]) -> None:
    others = {"PATH": "/bin", "BUSBAR": "x", "CREDENTIALS_DIRECTORY": "/run/credentials", "SERVER__PORT": "1"}
    assert load("", **others, **dict.fromkeys(CLIENT_NAMES, "x")) == Settings()


# Times and sizes


@pytest.mark.parametrize(
    ("written", "seconds"),
    [('"500ms"', 0.5), ('"10s"', 10), ('"5m"', 300), ('"1h"', 3600), ('"7d"', 604800), ('"7 d"', 604800), ("2.5", 2.5)],
)
def test_a_time_is_seconds_or_a_number_of_a_unit_up_to_days(
    load: Callable[..., Settings], written: str, seconds: float
) -> None:
    assert load(f"[events]\nkeep_for = {written}").events.keep_for == seconds


@pytest.mark.parametrize(
    ("written", "size"),
    [('"1024KiB"', 2**20), ('"1MiB"', 2**20), ('"2GiB"', 2**31), ('"1048576B"', 2**20), ("1048576", 2**20)],
)
def test_a_size_is_bytes_or_a_whole_number_of_a_unit(load: Callable[..., Settings], written: str, size: int) -> None:
    assert load(f"[events]\nkeep_bytes = {written}").events.keep_bytes == size


# What is refused

TIME = "write a time as a number and ms, s, m or h: '10s'"
SPAN = "write a time from 1ms to 3660d"
PORT = "write a whole number from 0 to 65535"
SIZE = "write a size as a whole number and B, KiB, MiB or GiB: '128MiB'"

WRONG: list[tuple[str, str, str]] = [
    ("server", "port = 65536", PORT),
    ("server", "port = -1", PORT),
    ("server", 'port = "http"', "Input should be a valid integer, unable to parse string as an integer"),
    ("server", "host = 5", "Input should be a valid string"),
    ("server", 'event_body = "1MB"', SIZE),
    ("server", 'event_body = "63KiB"', "write a size from 64KiB to 3MiB"),
    ("server", 'event_body = "4MiB"', "write a size from 64KiB to 3MiB"),
    ("server", 'wheel = "1023KiB"', "write a size from 1MiB to 4GiB"),
    ("server", 'drain = "30"', TIME),
    ("server", 'drain = "0s"', SPAN),
    ("server", "drain = -1", SPAN),
    ("server", "drain = nan", SPAN),
    ("events", 'keep_for = "0d"', SPAN),
    ("events", 'keep_for = "-1d"', TIME),
    ("events", 'keep_bytes = "1KiB"', "write a size from 1MiB to 65536GiB"),
    ("log", 'level = "loud"', "Input should be 'debug', 'info', 'warning' or 'error'"),
    ("log", 'format = "xml"', "Input should be 'auto', 'json' or 'console'"),
    ("runtime", "restarts = 0", "write a whole number from 1 to 1000"),
    ("sandbox", 'mode = "on"', "Input should be 'require', 'prefer' or 'off'"),
    ("sandbox", "first_user = 0", "write a whole number from 1000 to 2013265920"),
    ("sandbox", "threads = 15", "write a whole number from 16 to 4096"),
    ("sandbox", "open_files = 65537", "write a whole number from 64 to 65536"),
    ("limits", "emits = 0", "write a number above 0 and up to 1000000"),
    ("breaker", "failure_rate = 1.01", "write a number above 0 and up to 1"),
    ("breaker", "slow_call_rate = 0", "write a number above 0 and up to 1"),
    ("breaker", "probes = 101", "write a whole number from 1 to 100"),
    ("auth", 'public_metrics = "maybe"', "Input should be a valid boolean, unable to interpret input"),
]


@pytest.mark.parametrize(("section", "line", "sentence"), WRONG, ids=[f"{case[0]}.{case[1]}" for case in WRONG])
def test_a_wrong_value_is_refused_with_its_line_its_option_and_how_to_write_it(
    load: Callable[..., Settings], tmp_path: Path, section: str, line: str, sentence: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        load(f"# the settings\n\n[{section}]\n# an option\n{line}\n")
    option = line.partition(" ")[0]
    assert refused.value.message == f"{tmp_path / 'busbar.toml'}, line 5: {section}.{option}: {sentence}"
    assert refused.value.errors == (refused.value.message,)
    assert (refused.value.code, refused.value.kind) == ("settings_invalid", ErrorKind.INVALID)


SERVER = (
    "answer_within, body_within, connections, connections_per_address, drain, event_body, head_within, host, idle_for, "
    "port, processes, wheel"
)
SECTIONS = "auth, breaker, events, limits, log, runtime, sandbox, scan, server, storage, supply"

UNKNOWN: list[tuple[str, int, str]] = [
    ("[server]\nprot = 1", 2, "unknown option 'server.prot': did you mean 'port'?"),
    ("[server]\n  prot=1", 2, "unknown option 'server.prot': did you mean 'port'?"),
    ('[server]\n"prot" = 1', 2, "unknown option 'server.prot': did you mean 'port'?"),
    ("[ server ]\nprot = 1", 2, "unknown option 'server.prot': did you mean 'port'?"),
    ("[server]\nport = 1\nxyz = 1", 3, f"unknown option 'server.xyz': known: {SERVER}"),
    # The same option in its own section is not the one that is meant.
    ("[server]\nport = 1\n[log]\nport = 1", 4, "unknown option 'log.port': did you mean 'format'?"),
    ("\n[servers]\nport = 1", 2, "unknown option 'servers': did you mean 'server'?"),
    ("prot = 1", 1, "unknown option 'prot'"),
    ("[xyz]", 1, f"unknown option 'xyz': known: {SECTIONS}"),
]


@pytest.mark.parametrize(("text", "line", "sentence"), UNKNOWN, ids=[case[0] for case in UNKNOWN])
def test_an_unknown_option_is_refused_with_its_line_and_the_nearest_known_one(
    load: Callable[..., Settings], tmp_path: Path, text: str, line: int, sentence: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        load(text)
    assert refused.value.message.startswith(f"{tmp_path / 'busbar.toml'}, line {line}: {sentence}")


@pytest.mark.parametrize(
    "text",
    [
        "[server]  # where the API listens\nprot = 1",
        '["server"]\nprot = 1',
        "\nserver.prot = 1",
        "\nserver = { prot = 1 }",
    ],
    ids=["comment beside the section", "quoted section", "dotted key", "inline table"],
)
def test_the_line_is_found_however_the_option_is_written(
    load: Callable[..., Settings], tmp_path: Path, text: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        load(text)
    assert refused.value.message.startswith(f"{tmp_path / 'busbar.toml'}, line 2: unknown option 'server.prot'")


def test_a_section_that_is_none_is_refused_with_its_line(load: Callable[..., Settings]) -> None:
    with pytest.raises(SettingsError, match="line 2: server: Input should be a valid dictionary"):
        load("\nserver = 5", BUSBAR_SERVER__PORT="9000")


FROM_ENVIRONMENT: list[tuple[str, str, str]] = [
    (
        "BUSBAR_SERVER__PORT",
        "http",
        "server.port: Input should be a valid integer, unable to parse string as an integer",
    ),
    ("BUSBAR_SERVER__DRAIN", "30", f"server.drain: {TIME}"),
    ("BUSBAR_SERVER__WHEEL", "67108864", f"server.wheel: {SIZE}"),
    ("BUSBAR_SERVER__PROCESSES", "17", "server.processes: write a whole number from 0 to 16, or 'auto'"),
    ("BUSBAR_SERVER__PROT", "1", "unknown option 'server.prot': did you mean 'port'?"),
    ("BUSBAR_SERVER__PORT__X", "1", "unknown option 'server.port__x': did you mean 'port'?"),
    ("BUSBAR_SERVER__", "1", f"unknown option 'server.': known: {SERVER}"),
]


@pytest.mark.parametrize(("name", "value", "sentence"), FROM_ENVIRONMENT, ids=[case[0] for case in FROM_ENVIRONMENT])
def test_what_is_wrong_in_the_environment_is_refused_by_the_name_of_its_variable(
    load: Callable[..., Settings], name: str, value: str, sentence: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        load("[server]\nport = 9000", **{name: value})
    assert refused.value.message == f"{name}: {sentence}"


def test_an_unknown_section_in_the_environment_is_refused_by_the_name_of_its_variable() -> None:
    with pytest.raises(SettingsError) as refused:
        Settings.load(None, {"BUSBAR_SERVR__PORT": "9000"})
    assert refused.value.message == "BUSBAR_SERVR__PORT: unknown option 'servr': did you mean 'server'?"


@pytest.mark.parametrize("name", ["BUSBAR_PORT", "BUSBAR_SERVER_PORT", "BUSBAR_"])
def test_a_variable_that_names_no_section_is_refused_with_how_to_write_it(name: str) -> None:
    with pytest.raises(SettingsError) as refused:
        Settings.load(None, {name: "9000"})
    assert refused.value.message == (f"{name} is no setting: write BUSBAR_SECTION__OPTION, such as BUSBAR_SERVER__PORT")


def test_everything_wrong_is_said_at_once_each_with_where_it_came_from(
    load: Callable[..., Settings], tmp_path: Path
) -> None:
    path = tmp_path / "busbar.toml"
    with pytest.raises(SettingsError) as refused:
        load("[server]\nport = -1\n[log]\nlevle = 'info'", BUSBAR_AUTH__PUBLIC_METRICS="maybe")
    assert refused.value.errors == (
        f"{path}, line 2: server.port: {PORT}",
        f"{path}, line 4: unknown option 'log.levle': did you mean 'level'?",
        "BUSBAR_AUTH__PUBLIC_METRICS: auth.public_metrics: Input should be a valid boolean, unable to interpret input",
    )
    assert refused.value.message == "; ".join(refused.value.errors)


# Every number there is


def _numbers() -> list[tuple[str, str]]:
    """Every option that is a number, by its section."""
    return [
        (section, option)
        for section, model in Settings()
        for option, field in type(model).model_fields.items()
        if field.annotation in {int, float}
    ]


def test_the_table_of_numbers_is_not_empty() -> None:
    assert {("events", "keep_for"), ("events", "rate"), ("server", "port"), ("sandbox", "data")} <= set(_numbers())
    assert len(_numbers()) > 40


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e400", "-1e400", "1" + "0" * 18 + ".5"])
@pytest.mark.parametrize(("section", "option"), _numbers())
def test_no_number_is_beyond_its_range_or_no_number_at_all(
    load: Callable[..., Settings], section: str, option: str, value: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        load(f"[{section}]\n{option} = {value}")
    assert f", line 2: {section}.{option}: " in refused.value.message
    assert _says_how(refused.value.message)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "Infinity", "1e400", "9" * 25, "-1", "9" * 400 + "d"])
@pytest.mark.parametrize(("section", "option"), _numbers())
def test_nor_is_one_of_the_environment(section: str, option: str, value: str) -> None:
    name = f"BUSBAR_{section}__{option}".upper()
    with pytest.raises(SettingsError) as refused:
        Settings.load(None, {name: value})
    assert refused.value.message.startswith(f"{name}: {section}.{option}: ")


@pytest.mark.parametrize("value", ["1" + "0" * 30, "-1" + "0" * 30])
@pytest.mark.parametrize(("section", "option"), _numbers())
def test_a_whole_number_that_is_too_large_is_refused_with_the_range(
    load: Callable[..., Settings], section: str, option: str, value: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        load(f"[{section}]\n{option} = {value}")
    assert _says_how(refused.value.message)


def _says_how(message: str) -> bool:
    """Whether a refusal says from where to where a number goes, or that it is written in another way."""
    return any(words in message for words in (" from ", " above 0 and up to ", "Input should be a valid integer"))


@pytest.mark.parametrize(
    ("line", "range_"),
    [
        ("keep_for = inf", "write a time from 1ms to 3660d"),
        ("keep_for = nan", "write a time from 1ms to 3660d"),
        ('keep_for = "4000d"', "write a time from 1ms to 3660d"),
        (f'keep_for = "{"9" * 400}d"', "write a time from 1ms to 3660d"),
        (f'keep_for = "{"9" * 5000}h"', "write a time from 1ms to 3660d"),
        ("keep_for = 1e-300", "write a time from 1ms to 3660d"),
        ("rate = nan", "write a number from 0 to 1000000"),
        ("rate = inf", "write a number from 0 to 1000000"),
        ("keep_bytes = 10000000000000000000000000", "write a size from 1MiB to 65536GiB"),
        ("dead_letters = inf", "write a whole number from 1 to 1000000"),
    ],
)
def test_what_is_no_number_of_the_log_is_refused_with_the_range(
    load: Callable[..., Settings], line: str, range_: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        load(f"[events]\n{line}")
    assert refused.value.message.endswith(f": {range_}")


@pytest.mark.parametrize("priority", ["nan", "inf", "101", "1" + "0" * 30])
def test_a_number_in_a_table_of_an_array_has_its_range_too(load: Callable[..., Settings], priority: str) -> None:
    with pytest.raises(SettingsError, match="write a whole number from -100 to 100"):
        load(f'[[supply.indexes]]\nname = "main"\nurl = "https://plugins.example.org/"\npriority = {priority}')


# The file itself


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as refused:
        Settings.load(tmp_path / "none.toml", {})
    assert refused.value.message == f"{tmp_path / 'none.toml'} cannot be read: No such file or directory"


def test_a_folder_is_no_settings_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: Is a directory"):
        Settings.load(tmp_path, {})


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"[server", "at end of document"),
        (b"[server]\nport = \n", "at line 2, column 8"),
        (b"[server]\nport = 1\nport = 2\n", "at line 3, column 9"),
        (b"# \xff", "can't decode byte 0xff"),
    ],
)
def test_what_is_no_toml_is_refused_with_the_place(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "busbar.toml"
    path.write_bytes(content)
    with pytest.raises(SettingsError) as refused:
        Settings.load(path, {})
    assert refused.value.message.startswith(f"{path} is no TOML: ")
    assert why in refused.value.message


@pytest.mark.parametrize("text", ["x = " + "[" * 30_000, f"[server]\nport = {'9' * 5000}"], ids=["nesting", "number"])
def test_toml_that_no_reader_can_take_is_refused(load: Callable[..., Settings], text: str) -> None:
    with pytest.raises(SettingsError):
        load(text)


def test_settings_are_a_value_that_nobody_changes() -> None:
    settings: Any = Settings()
    with pytest.raises(ValueError, match="frozen"):
        settings.server.port = 1
