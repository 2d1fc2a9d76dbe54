"""
The options ``on_success`` and ``on_failure``: what the source is told of a message.
"""

from __future__ import annotations

from typing import Any, Dict, Mapping, Optional

import attrs

from ...rules import Rule, mistake, rule
from .polling_client import Action

NAMES = ("on_success", "on_failure")


def outcome(longest: int) -> Rule:
    """
    Return the rule of both options: ``"ack"``, ``"noop"``, ``"nack"`` or ``("nack", int from 0 to longest)``.
    """

    def test(value: Any) -> bool:
        if isinstance(value, (tuple, list)) and len(value) == 2 and value[0] == "nack":
            seconds = value[1]
            return isinstance(seconds, int) and not isinstance(seconds, bool) and 0 <= seconds <= longest
        return isinstance(value, str) and value in ("ack", "noop", "nack")

    return rule(test, f'"ack", "noop", "nack" or ("nack", seconds), an int from 0 to {longest}')


def to_action(value: Any) -> Optional[Action]:
    """
    Return what a valid option asks for, None for ``"noop"``.
    """
    if value == "noop":
        return None
    if isinstance(value, str):
        return (value, 0.0)
    return (value[0], float(value[1]))


def to_actions(options: Mapping[str, Any], cls: type) -> Dict[str, Any]:
    """
    Return the actions that the options of a ``configure_ack`` ask for, by the rules of the options class *cls*.

    Raises:
        ConfigurationError: An option is neither ``on_success`` nor ``on_failure``, or its value breaks the rule.
    """
    for name, value in options.items():
        if name not in NAMES:
            raise mistake(name, f"unknown option of configure_ack, valid options are: {', '.join(NAMES)}")
        field = attrs.fields_dict(cls)[name]
        assert field.validator is not None
        field.validator(None, field, value)
    return {name: to_action(value) for name, value in options.items()}


@attrs.frozen
class Receipt:
    """
    The ``ack_data`` of a message: how its source knows it, and what to tell it.
    """

    handle: str
    group: Optional[str]
    on_success: Optional[Action]
    on_failure: Optional[Action]
    identity: Optional[str] = None
