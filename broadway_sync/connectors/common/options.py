"""
Options that connectors have in common.
"""

from __future__ import annotations

from typing import Any, Callable, Mapping, Optional, Type, TypeVar

import attrs

from ...core.backoff import KINDS, Backoff
from ...rules import (
    construct,
    is_seconds,
    mistake,
    one_of,
    option,
    optional,
    positive_seconds,
    rule,
    seconds_from_zero,
    takes,
)
from .polling_client import PollingClient

T = TypeVar("T")


@attrs.frozen(kw_only=True)
class BackoffOptions:
    """
    How long to wait before the next attempt at something that failed.
    """

    backoff_min: float = option(
        attrs.Factory(lambda: None),
        optional(seconds_from_zero),
        "shortest pause between two attempts to connect, seconds (default: 1, or backoff_max if that is less)",
    )
    backoff_max: float = option(
        # Computed before backoff_min is checked.
        attrs.Factory(
            lambda self: max(30.0, self.backoff_min) if is_seconds(self.backoff_min) else 30.0, takes_self=True
        ),
        seconds_from_zero,
        "longest pause between two attempts, seconds (default: 30, or backoff_min)",
    )
    backoff_type: str = option(
        "rand_exp",
        one_of(*KINDS),
        'how pauses grow: "rand_exp", "exp" or "rand"; "stop": no second attempt, the producer crashes',
    )

    def __attrs_post_init__(self) -> None:
        if self.backoff_min is None:  # each has the other one in its default: the second to be known is set here
            object.__setattr__(self, "backoff_min", min(1.0, self.backoff_max))
        if self.backoff_max < self.backoff_min:
            raise mistake(
                "backoff_max", f"expected seconds >= backoff_min, which is {self.backoff_min}, got: {self.backoff_max}"
            )

    def backoff(self) -> Backoff:
        """
        Return the pauses between the attempts of one connection.
        """
        return Backoff(self.backoff_type, self.backoff_min, self.backoff_max)


@attrs.frozen(kw_only=True)
class PollingOptions(BackoffOptions):
    """
    Options of every polling connector. Subclasses add ``on_success``, ``on_failure`` and ``max_number_of_messages``.
    """

    receive_interval: float = option(
        5.0,
        seconds_from_zero,
        "least seconds from a request that found nothing to the next; a long poll that took longer is followed at once",
    )
    max_lease: float = option(
        3600.0, positive_seconds, "seconds after receipt for which a message that is not acknowledged is kept ours"
    )
    client: Optional[Callable[[Any], PollingClient]] = option(
        None, optional(rule(takes(1), "a function of the options")), "for tests: returns the client to use"
    )


def build(cls: Type[T], given: Mapping[str, Any]) -> T:
    """
    Return the options of a producer as an instance of *cls*.

    Raises:
        ConfigurationError: The first mistake; the text names the option as ``producer.module.<option>``.
    """
    return construct(cls, given, "producer.module")
