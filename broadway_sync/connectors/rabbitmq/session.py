"""
What one channel delivered, and what becomes of it.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Callable, Deque, List

from ...acknowledger import NoopAcknowledger
from ...message import Message
from .acknowledger import ACKNOWLEDGER, Choice
from .link import Link, OnDelivery
from .messages import DeliveryMessage, metadata_reader
from .options import RabbitMQOptions
from .tags import Frame, Lot, Tags

# Of what the broker sends ahead, so little is held back at most that it hardly ever has to wait for it.
_HELD_PART = 4


class Session:
    """
    The life of one channel, from its first delivery to its loss or end; the ``ack_ref`` of its messages.

    Belongs to the connection's thread, but for :meth:`finish`, which any thread may call.
    """

    acknowledger = ACKNOWLEDGER

    link: Link

    def __init__(self, options: RabbitMQOptions, on_stale: Callable[[Session, int], None]) -> None:
        """
        Args:
            on_stale: Called with the session and the number of messages that were finished after its end.
        """
        self.options = options
        self.is_no_ack = options.is_no_ack
        self.is_ready = False
        """Whether everything is set up: from then on the connection's thread waits where ``link.wake`` wakes it."""
        self.is_consuming = True
        self.is_over = False
        self.has_told = False
        """Whether it was said that outcomes came too late."""
        self._on_stale = on_stale
        self.choice = Choice(options.on_success, options.on_failure)
        """What becomes of messages, unless ``configure_ack`` says otherwise."""
        self._read = metadata_reader(options.metadata)
        self.tags = Tags(options.prefetch_count // _HELD_PART)
        self._is_first = True
        # What stages have finished and the connection's thread has not fetched. Appended to by any thread.
        self._finished: Deque[Lot] = deque()
        # Whether the connection's thread has been woken and has not fetched since. A stage appends to _finished
        # before it looks here, that thread clears this before it fetches: whoever comes second sees the other.
        self._is_posted = False

    def delivery_callback(self, waiting: Deque[Message]) -> OnDelivery:
        """
        Return the function that puts the message of a delivery among those that wait: the one that runs for each of
        them on the connection's thread.
        """
        append, opened, read = waiting.append, self.tags.open, self._read

        def on_delivery(channel: Any, method: Any, properties: Any, body: bytes) -> None:
            tag = method.delivery_tag
            opened[tag] = True
            append(DeliveryMessage(self, tag, method.redelivered, body, read(method, properties)))

        def on_delivery_without_ack(channel: Any, method: Any, properties: Any, body: bytes) -> None:
            append(self.to_message(method, properties, body))

        return on_delivery_without_ack if self.is_no_ack else on_delivery

    def to_message(self, method: Any, properties: Any, body: bytes) -> Message:
        """
        Return the message of a delivery that the broker regards as acknowledged.
        """
        return Message(body, NoopAcknowledger.init(), metadata=self._read(method, properties))

    def finish(self, lots: List[Lot]) -> None:
        """
        Take the outcomes of messages, and see to it that the connection's thread sends them. Does not wait for that.
        """
        self._finished.extend(lots)
        if self.is_over:
            self._drop_finished()
        elif not self._is_posted:
            self._is_posted = True
            self.link.wake()

    def fetch(self) -> List[Lot]:
        """
        Return what was finished since the last call.
        """
        self._is_posted = False
        lots = []
        try:
            while self._finished:
                lots.append(self._finished.popleft())
        except IndexError:  # another thread was quicker: there are several after the end
            pass
        return lots

    def frames(self, lots: List[Lot]) -> List[Frame]:
        """
        Return what to send for these lots.
        """
        if self._is_first:
            self._is_first = False
            self._look_for_others(lots)
        return self.tags.settle(lots)

    def _look_for_others(self, lots: List[Lot]) -> None:
        # Tags count from 1. If the first one here is larger, or there are other consumers, then `after_connect` took
        # messages from this channel, and those are not ours to acknowledge.
        first = next(iter(self.tags.open), 1)
        if first != 1 or self.link.is_shared:
            self.tags.forbid_multiple()

    def end(self) -> None:
        """
        The channel is gone: what is finished from now on is stale, and so is what was not sent.
        """
        # Before the look at what is finished; stages do it the other way round. Whoever comes second sees the other.
        self.is_over = True
        held, self.tags.held = self.tags.held, []
        self._drop_finished(len(held))

    def _drop_finished(self, number: int = 0) -> None:
        number += count(self.fetch())
        if number:
            self._on_stale(self, number)


def count(lots: List[Lot]) -> int:
    """
    Return how many messages these lots are for.
    """
    return sum(len(tags) for _, tags in lots)
