"""
The options of a runner: as values, as text, on command lines.
"""

from __future__ import annotations

import argparse
import logging
from typing import Any

import attrs
import pytest

from broadway_sync import ConfigurationError
from broadway_sync.runner import RunOptions, add_run_arguments, run_flags
from broadway_sync.runner.options import TAG_STYLES

TEXTS = {
    "processes": ("4", 4),
    "shutdown": ("7.5", 7.5),
    "max_messages": ("1000", 1000),
    "max_memory": ("512M", 512 * 1024**2),
    "log_level": ("Warning", "warning"),
    "statsd": ("metrics:8125", ("metrics", 8125)),
    "statsd_prefix": ("shop", "shop"),
    "statsd_tags": ("datadog", "datadog"),
    "health_port": ("8080", 8080),
    "health_host": ("0.0.0.0", "0.0.0.0"),
    "health_file": ("/run/shop.json", "/run/shop.json"),
    "stall_after": ("90", 90.0),
}


def parse(*arguments: str) -> RunOptions:
    """
    Parse a command line that has these options.
    """
    parser = argparse.ArgumentParser()
    add_run_arguments(parser)
    return RunOptions.from_arguments(parser.parse_args(arguments))


def test_nothing_given() -> None:
    """
    Means the defaults, among them a drain that is over before Kubernetes' 30 seconds.
    """
    assert parse() == RunOptions()
    assert RunOptions().shutdown == 25
    assert RunOptions().health_host == "127.0.0.1"


@pytest.mark.parametrize("name", TEXTS)
def test_command_line(name: str) -> None:
    """
    Every option can be given as text, and as the value that it means.
    """
    text, value = TEXTS[name]
    options = parse("--" + name.replace("_", "-"), text)
    assert getattr(options, name) == value
    assert options == RunOptions(**{name: value})


def test_switch() -> None:
    """
    Takes no value.
    """
    assert parse("--reload").reload is True


def test_all_options_are_tested() -> None:
    """
    None is forgotten here.
    """
    assert {field.name for field in attrs.fields(RunOptions)} == {*TEXTS, "reload"}


@pytest.mark.parametrize(
    "text, size",
    [
        ("4096", 4096),
        ("4096B", 4096),
        ("1k", 1024),
        ("512MiB", 2**29),
        ("512 mb", 2**29),
        ("1.5G", 3 * 2**29),
        ("1T", 2**40),
    ],
)
def test_sizes(text: str, size: int) -> None:
    """
    Units are powers of 1024, in any case, with or without B.
    """
    assert RunOptions(max_memory=text).max_memory == size


@pytest.mark.parametrize(
    "text, address", [("[::1]:8125", ("::1", 8125)), ("127.0.0.1:1", ("127.0.0.1", 1)), ("a.b:65535", ("a.b", 65535))]
)
def test_addresses(text: str, address: Any) -> None:
    """
    Names, and addresses of both kinds.
    """
    assert RunOptions(statsd=text).statsd == address


@pytest.mark.parametrize(
    "arguments, mistake",
    [
        (["--processes", "0"], "--processes: expected an int > 0, got: 0"),
        (["--processes", "two"], "--processes: expected an int > 0, got: 'two'"),
        (["--shutdown", "soon"], "--shutdown: expected a finite number of seconds >= 0, got: 'soon'"),
        (["--shutdown", "-1"], "--shutdown: expected a finite number of seconds >= 0, got: -1.0"),
        (["--max-messages", "0"], "--max-messages: expected an int > 0, got: 0"),
        (["--max-memory", "lots"], "--max-memory: expected a size in bytes such as 512M or 2G, got: 'lots'"),
        (["--max-memory", "0"], "--max-memory: expected a size in bytes such as 512M or 2G, got: 0"),
        (["--log-level", "loud"], "--log-level: expected one of debug, info, warning, error, critical, got: 'loud'"),
        (["--statsd", "metrics"], "--statsd: expected host:port, got: 'metrics'"),
        (["--statsd", "metrics:0"], "--statsd: expected host:port, got: ('metrics', 0)"),
        (["--statsd-tags", "dogs"], "--statsd-tags: expected one of datadog, influx, graphite, got: 'dogs'"),
        (["--statsd", ":8125"], "--statsd: expected host:port, got: ':8125'"),
        (["--health-port", "70000"], "--health-port: expected a port from 0 (any that is free) to 65535, got: 70000"),
        (["--health-file", ""], "--health-file: expected a non-empty str, got: ''"),
        (["--stall-after", "0"], "--stall-after: expected a finite number of seconds > 0, got: 0.0"),
        (["--reload", "--processes", "2"], "--reload: is for development and one process, got processes: 2"),
    ],
    ids=lambda value: "".join(value) if isinstance(value, list) else "",
)
def test_mistakes_on_a_command_line(arguments: list[str], mistake: str) -> None:
    """
    Name the option as it is written there, the rule and the value.
    """
    with pytest.raises(ConfigurationError) as caught:
        parse(*(f"{arguments[0]}={arguments[1]}", *arguments[2:]) if arguments[0] != "--reload" else arguments)
    assert str(caught.value) == mistake


def test_mistakes_in_code() -> None:
    """
    Name the option as it is written there.
    """
    with pytest.raises(ConfigurationError, match="^max_memory: expected a size in bytes such as 512M or 2G, got: -1$"):
        RunOptions(max_memory=-1)


def test_mappings() -> None:
    """
    As Django's commands get them; what belongs to others is ignored.
    """
    given = {"processes": "2", "max_memory": None, "reload": None, "verbosity": 1, "settings": "shop.settings"}
    assert RunOptions.from_arguments(given) == RunOptions(processes=2)


def test_flags_for_other_parsers() -> None:
    """
    All that a command line shows of an option, with its default.
    """
    flags = {flag.name: flag for flag in run_flags()}
    assert flags["max_messages"].flag == "--max-messages"
    assert flags["max_messages"].metavar == "N"
    assert flags["reload"].metavar == ""
    assert flags["shutdown"].doc.endswith("(default: 25)")
    assert all(flag.doc for flag in flags.values())


def test_level() -> None:
    """
    As logging knows it.
    """
    assert RunOptions(log_level="debug").level == logging.DEBUG
    assert RunOptions().level is None


def test_styles_of_tags() -> None:
    """
    Are those of the reporter.
    """
    from broadway_sync.telemetry import statsd

    assert list(statsd._TAGS) == list(TAG_STYLES)
