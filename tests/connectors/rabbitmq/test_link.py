"""
What is said besides the broker's own words.
"""

from __future__ import annotations

import pytest

from broadway_sync.connectors.rabbitmq.link import advice


class Closed(Exception):
    """
    As pika has it: what the broker says has a code and a text.
    """

    def __init__(self, reply_code: int, reply_text: str) -> None:
        super().__init__(reply_code, reply_text)
        self.reply_code = reply_code


@pytest.mark.parametrize(
    ("code", "text", "said"),
    [
        (403, "ACCESS_REFUSED - access to queue 'q' in vhost '/' refused for user 'u'", "check user, password"),
        (403, "ACCESS_REFUSED - queue 'q' in vhost '/' in exclusive use", "another consumer has the queue for itself"),
        (404, "NOT_FOUND - no queue 'q' in vhost '/'", "declare (a queue)"),
        (404, "NOT_FOUND - no exchange 'e' in vhost '/'", "after_connect (an exchange)"),
        (406, "PRECONDITION_FAILED - consumer ack timed out on channel 1", "consumer_timeout"),
        (
            406,
            "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out. Timeout value used: 2000 ms",
            "consumer_timeout",
        ),
        (
            406,
            "PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'timeouts' in vhost '/'",
            "declare contradicts",
        ),
        (406, "PRECONDITION_FAILED - unknown delivery tag 7", "somebody else acknowledged"),
        (406, "PRECONDITION_FAILED - invalid property 'x'", ""),
        (320, "CONNECTION_FORCED - broker forced connection closure", ""),
    ],
)
def test_advice(code: int, text: str, said: str) -> None:
    """
    It fits what the broker said; where there is none to give, there is none.
    """
    found = advice(Closed(code, text))
    assert said in found
    assert bool(found) == bool(said)
