"""
What ``broadway-sync run`` can be told: each option once, for the command line, Django's command, Flask's, and code.
"""

from __future__ import annotations

import argparse
import logging
import re
from typing import Any, Dict, List, Mapping, Optional, Tuple, Union

import attrs

from ..errors import ConfigurationError
from ..rules import Rule, is_int, is_seconds, non_empty_str, optional, positive_int, positive_seconds, rule

LEVELS = ("debug", "info", "warning", "error", "critical")

TAG_STYLES = ("datadog", "influx", "graphite")

_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)

_ADDRESS = re.compile(r"(?:\[([^\]]+)\]|([^:]+)):(\d+)")


def parse_size(value: Any) -> Any:
    """
    Return the bytes that a text such as ``"512M"``, ``"1.5G"``, ``"512MiB"`` or ``"4096"`` means; others as they are.
    """
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    return value if match is None else int(float(match[1]) * _UNITS[match[2].upper()])


def parse_address(value: Any) -> Any:
    """
    Return the (host, port) that a text such as ``"localhost:8125"`` or ``"[::1]:8125"`` means; others as they are.
    """
    match = _ADDRESS.fullmatch(value.strip()) if isinstance(value, str) else None
    return value if match is None else (match[1] or match[2], int(match[3]))


def _to_int(value: Any) -> Any:
    return int(value) if isinstance(value, str) and re.fullmatch(r"\s*\d+\s*", value) else value


def _to_seconds(value: Any) -> Any:
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _to_level(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _is_port(value: Any) -> bool:
    return is_int(value, 0) and value <= 65535


def _is_address(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and _is_text(value[0]) and _is_port(value[1]) and value[1] > 0


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


_size = rule(lambda value: is_int(value, 1), "a size in bytes such as 512M or 2G")
_address = rule(_is_address, "host:port")
_port = rule(_is_port, "a port from 0 (any that is free) to 65535")
_level = rule(lambda value: value in LEVELS, f"one of {', '.join(LEVELS)}")
_style = rule(lambda value: value in TAG_STYLES, f"one of {', '.join(TAG_STYLES)}")
_shutdown = rule(lambda value: is_seconds(value) and value >= 0, "a finite number of seconds >= 0")
_boolean = rule(lambda value: isinstance(value, bool), "True or False")


def _flag(default: Any, check: Rule, doc: str, *, metavar: str = "", converter: Any = None) -> Any:
    return attrs.field(default=default, validator=check, converter=converter, metadata={"doc": doc, "metavar": metavar})


@attrs.frozen(kw_only=True)
class RunOptions:
    """
    How :func:`broadway_sync.runner.run` runs pipelines. Every value may also be the text of a command line.

    Raises:
        ConfigurationError: A value is out of range; the text names the option, the rule and the value.
    """

    processes: int = _flag(
        1, positive_int, "fork this many workers; each runs all the pipelines", metavar="N", converter=_to_int
    )
    shutdown: float = _flag(
        25.0,
        _shutdown,
        "seconds that a drain may take; in place of the pipelines' own option, and below the 30 of Kubernetes",
        metavar="SECONDS",
        converter=_to_seconds,
    )
    max_messages: Optional[int] = _flag(
        None,
        optional(positive_int),
        "drain and leave after this many messages (each worker by itself)",
        metavar="N",
        converter=_to_int,
    )
    max_memory: Optional[int] = _flag(
        None,
        optional(_size),
        "drain and leave when more memory than this is resident, such as 512M (each worker by itself)",
        metavar="SIZE",
        converter=parse_size,
    )
    log_level: Optional[str] = _flag(
        None,
        optional(_level),
        f"what is logged, on stderr unless the program configures logging: {', '.join(LEVELS)}",
        metavar="LEVEL",
        converter=_to_level,
    )
    statsd: Optional[Tuple[str, int]] = _flag(
        None, optional(_address), "send metrics to this statsd server", metavar="HOST:PORT", converter=parse_address
    )
    statsd_prefix: str = _flag("broadway", non_empty_str, "first part of the metrics' names", metavar="TEXT")
    statsd_tags: Optional[str] = _flag(
        None,
        optional(_style),
        "write labels as tags, in the style of datadog, influx or graphite; else they are parts of the names",
        metavar="STYLE",
    )
    health_port: Optional[int] = _flag(
        None,
        optional(_port),
        "answer /livez and /readyz over HTTP on this port, for all workers together",
        metavar="PORT",
        converter=_to_int,
    )
    health_host: str = _flag(
        "127.0.0.1", non_empty_str, "address that the health port listens on; 0.0.0.0 for all", metavar="ADDRESS"
    )
    health_file: Optional[str] = _flag(
        None,
        optional(non_empty_str),
        "keep a file that says how the pipelines are, of all workers together; `broadway-sync health` reads it",
        metavar="PATH",
    )
    stall_after: float = _flag(
        60.0,
        positive_seconds,
        "seconds with messages in hand and none of them finished after which a pipeline counts as stalled",
        metavar="SECONDS",
        converter=_to_seconds,
    )
    reload: bool = _flag(
        False, _boolean, "for development: drain and start afresh whenever a source file of an imported module changes"
    )

    def __attrs_post_init__(self) -> None:
        if self.reload and self.processes > 1:
            raise ConfigurationError(f"reload: is for development and one process, got processes: {self.processes}")

    @classmethod
    def from_arguments(cls, arguments: Union[argparse.Namespace, Mapping[str, Any]]) -> RunOptions:
        """
        Return the options among parsed *arguments*, a namespace or a mapping; what else is there is ignored.

        Raises:
            ConfigurationError: A value is out of range; the text names the option as the command line does.
        """
        given: Mapping[str, Any] = vars(arguments) if isinstance(arguments, argparse.Namespace) else arguments
        names = [field.name for field in attrs.fields(cls)]
        values: Dict[str, Any] = {name: given[name] for name in names if given.get(name) is not None}
        try:
            return cls(**values)
        except ConfigurationError as error:
            name, _, text = str(error).partition(":")
            raise ConfigurationError(f"{_flag_of(name)}:{text}") from None

    @property
    def level(self) -> Optional[int]:
        """
        ``log_level`` as a number of :mod:`logging`.
        """
        return None if self.log_level is None else int(getattr(logging, self.log_level.upper()))


@attrs.frozen
class Flag:
    """
    One option as a command line shows it, for parsers other than :mod:`argparse`.
    """

    name: str
    """Its name in :class:`RunOptions`."""
    flag: str
    """``--max-messages``."""
    metavar: str
    """``N``; empty for a switch, which takes no value."""
    doc: str
    """What it does, with its default."""


def run_flags() -> List[Flag]:
    """
    Return all options as a command line shows them. Values may be handed to :class:`RunOptions` as text.
    """
    return [
        Flag(field.name, _flag_of(field.name), field.metadata["metavar"], _help(field))
        for field in attrs.fields(RunOptions)
    ]


def add_run_arguments(parser: Any) -> None:
    """
    Add all options of :class:`RunOptions` to *parser*, an ``argparse.ArgumentParser`` or a group of one.

    None is the value of what is not given; :meth:`RunOptions.from_arguments` makes the options of the result.
    """
    for each in run_flags():
        text = each.doc.replace("%", "%%")
        if each.metavar:
            parser.add_argument(each.flag, dest=each.name, metavar=each.metavar, help=text)
        else:
            parser.add_argument(each.flag, dest=each.name, action="store_true", default=None, help=text)


def _flag_of(name: str) -> str:
    return "--" + name.replace("_", "-")


def _help(field: attrs.Attribute[Any]) -> str:
    doc = str(field.metadata["doc"])
    has_default = field.default is not None and field.default is not False
    shown = f"{field.default:g}" if isinstance(field.default, float) else field.default
    return f"{doc} (default: {shown})" if has_default else doc
