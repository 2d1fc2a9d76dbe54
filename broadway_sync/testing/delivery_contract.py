"""
The contract's tests of delivery and acknowledgement, with a broker that behaves.
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any, List

from ..errors import AckConfigurationError, ConfigurationError
from ..message import Message
from . import hints
from .contract_base import (
    check,
    check_empty,
    check_nothing_lost,
    check_once,
    hold,
    publish,
    recorder,
    running,
    skip,
    wait_for_begun,
    wait_for_handled,
    watch,
    work,
)
from .harness import ConnectorHarness, offers
from .hints import ACKNOWLEDGING, ACKNOWLEDGING_BATCHES, ACKNOWLEDGING_LAST, CONFIGURING, NEGATIVE, ONCE, RECEIVING
from .recording import RecordingHandler
from .waiting import Gate, wait_until
from .watching import Watcher


class DeliveryContract:
    """
    What comes out of the queue, and what the broker is told.
    """

    def test_delivers_everything(self, harness: ConnectorHarness) -> None:
        """
        Every message is delivered once: those that wait at the start, and those that come to an idle pipeline.
        """
        half = harness.count // 2
        published = publish(harness, "waiting", half)
        handler = recorder(harness)
        with running(harness, handler):
            wait_for_handled(harness, handler, published, RECEIVING)
            watch(harness)  # idle: the producer has met an empty queue
            later = publish(harness, "later", harness.count - half)
            wait_for_handled(harness, handler, later, RECEIVING)
            check_empty(harness, ACKNOWLEDGING)
        check_once(handler.begun, published + later, ONCE)

    def test_acknowledges_each_message_once(self, harness: ConnectorHarness) -> None:
        """
        What was handled is gone from the queue while the pipeline runs, and acknowledged no second time.
        """
        published = publish(harness, "ack")
        handler = recorder(harness)
        with Watcher(harness.loggers, harness.events) as watcher, running(harness, handler):
            wait_for_handled(harness, handler, published, RECEIVING)
            check_empty(harness, ACKNOWLEDGING)
        check_once(handler.begun, published, ONCE)
        complaints = watcher.complaints()
        check(not complaints, f"nothing was wrong, but the connector logged {complaints[:3]}", ONCE)
        if offers(harness, "acknowledgements"):
            told = harness.acknowledgements()
            what = f"the broker was told {told} times that a message is done, for {len(published)} messages"
            check(told == len(published), what, "the acknowledger's ack(), and what retries it")

    def test_nothing_comes_again_after_a_run(self, harness: ConnectorHarness) -> None:
        """
        A second pipeline on the same queue gets nothing of what the first one acknowledged.
        """
        published = publish(harness, "first")
        handler = recorder(harness)
        with running(harness, handler):
            wait_for_handled(harness, handler, published, RECEIVING)
        check_empty(harness, ACKNOWLEDGING_LAST)
        second = recorder(harness)
        with running(harness, second):
            later = publish(harness, "second", 10)
            wait_for_handled(harness, second, later, RECEIVING)
            watch(harness)
        again = sorted(set(second.begun) & set(published))
        check(not again, f"{len(again)} messages came again after a stop, such as {again[:1]}", ACKNOWLEDGING)

    def test_acknowledges_batches(self, harness: ConnectorHarness) -> None:
        """
        Messages that go through a batcher are acknowledged by batch processors, several at a time.
        """
        published = publish(harness, "batch")
        handler = recorder(harness)
        batchers = {"default": {"concurrency": 2, "batch_size": 10, "batch_timeout": 0.1}}
        with running(harness, handler, batchers=batchers):
            wait_for_handled(harness, handler, published, RECEIVING)
            check_empty(harness, ACKNOWLEDGING_BATCHES)
        check_once([data for batch in handler.batches for data in batch], published, ONCE)

    def test_order(self, harness: ConnectorHarness) -> None:
        """
        One processor gets the messages of one producer in the order of the queue.
        """
        if not harness.is_ordered:
            skip("the harness says that its queue has no order")
        published = publish(harness, "order", harness.count // 2)
        handler = recorder(harness)
        with running(harness, handler, processors=1):
            published += publish(harness, "ordered", harness.count // 2)
            wait_for_handled(harness, handler, published, RECEIVING)
            check_empty(harness, ACKNOWLEDGING)
        check_once(handler.begun, published, ONCE)
        wrong = [pair for pair in zip(handler.begun, published) if pair[0] != pair[1]]
        check(not wrong, f"{len(wrong)} messages came out of order, first {wrong[:1]} (got, expected)", hints.ORDERING)

    def test_two_producers(self, harness: ConnectorHarness) -> None:
        """
        Two producers of one pipeline share the queue.
        """
        published = publish(harness, "two")
        handler = recorder(harness)
        with running(harness, handler, producers=2):
            wait_for_handled(harness, handler, published, hints.SHARED_STATE)
            check_empty(harness, hints.SHARED_STATE)
        check_once(handler.begun, published, hints.SHARED_STATE)

    def test_failed_messages(self, harness: ConnectorHarness) -> None:
        """
        Failed messages come again until they succeed, or are gone, as the harness says; nothing else comes again.
        """
        published = publish(harness, "fail")
        failing = published[::10]

        def behave(message: Message, attempt: int) -> None:
            if attempt == 1 and harness.text(message) in failing:
                if failing.index(harness.text(message)) % 2:
                    raise ValueError("planned by the contract suite")
                message.fail("planned by the contract suite")

        handler = recorder(harness, behave)
        with running(harness, handler):
            if harness.redelivers_failed:
                wait_for_handled(harness, handler, published, NEGATIVE, again=True)
            else:
                wait_for_begun(harness, handler, published, RECEIVING)
            check_empty(harness, NEGATIVE)
            watch(harness)
        _check_attempts(handler, published, failing if harness.redelivers_failed else [])

    def test_configure_ack(self, harness: ConnectorHarness) -> None:
        """
        ``configure_ack`` changes what happens to one message, and merges: a later call keeps what it does not name.
        """
        options = harness.drop_options
        if options is None:
            skip("the harness has no drop_options")
        published = publish(harness, "configure")
        dropped = published[::10]

        def behave(message: Message, attempt: int) -> None:
            if harness.text(message) in dropped:
                message.configure_ack(**options).configure_ack()
                message.fail("planned by the contract suite")

        handler = recorder(harness, behave)
        with running(harness, handler):
            wait_for_begun(harness, handler, published, RECEIVING)
            check_empty(harness, CONFIGURING)
            watch(harness)
        _check_attempts(handler, published, [])

    def test_wrong_ack_option_fails_its_message_alone(self, harness: ConnectorHarness) -> None:
        """
        An ack option that does not exist raises ``ConfigurationError`` with its name; the others are not touched.
        """
        published = publish(harness, "option")
        errors: List[BaseException] = []

        def behave(message: Message, attempt: int) -> None:
            if attempt == 1 and harness.text(message) == published[0]:
                try:
                    message.configure_ack(no_such_option=1)
                except BaseException as error:
                    errors.append(error)
                    raise

        handler = recorder(harness, behave)
        with running(harness, handler):
            wait_for_handled(harness, handler, published[1:], RECEIVING)
            wait_for_begun(harness, handler, published[:1], RECEIVING)
            check_empty(harness, NEGATIVE)
        check(errors, "configure_ack(no_such_option=1) raised nothing: a misspelt option is ignored", CONFIGURING)
        if isinstance(errors[0], AckConfigurationError):
            return  # it has no configure() at all, and says so
        is_named = isinstance(errors[0], ConfigurationError) and "no_such_option" in str(errors[0])
        check(is_named, f"expected a ConfigurationError that names the option, got {errors[0]!r}", CONFIGURING)

    def test_two_pipelines_share_a_queue(self, harness: ConnectorHarness) -> None:
        """
        Two pipelines on one queue, as in two processes; one of them stops in the middle, the other gets the rest.
        """
        handlers = [recorder(harness, work), recorder(harness, work)]
        few: Any = {"processors": 2, "max_demand": 4}
        with running(harness, handlers[0], **few) as first, running(harness, handlers[1], **few):
            published = publish(harness, "before")
            wait_until(lambda: _together(handlers), harness.timeout, "a message handled by one of both", pause=0.001)
            first.stop()
            published += publish(harness, "after", harness.count // 2)
            rest = set(published).difference(handlers[0].handled)
            wait_for_handled(harness, handlers[1], rest, hints.SHARED_QUEUE, again=True)
            check_empty(harness, hints.SHARED_QUEUE)
        check_nothing_lost(_together(handlers), published, hints.SHARED_QUEUE)

    def test_slow_handlers_keep_their_messages(self, harness: ConnectorHarness) -> None:
        """
        A handler that takes longer than the lease keeps its message, and so does what waits behind it.
        """
        lease = harness.lease
        if lease is None:
            skip("the harness has no lease")
        published = publish(harness, "slow")
        gate = Gate()
        handler = recorder(harness, hold(harness, gate, lambda data, attempt: data in published[:2]))
        with running(harness, handler, processors=2), gate:
            gate.arrived(harness.timeout)
            threading.Event().wait(1.5 * lease)
            gate.open()
            wait_for_handled(harness, handler, published, hints.LEASES)
            check_empty(harness, hints.LEASES)
        check_once(handler.begun, published, hints.LEASES)


def _check_attempts(handler: RecordingHandler, published: List[str], twice: List[str]) -> None:
    """
    Fail unless each message was begun once, those in *twice* two times.
    """
    check_nothing_lost(handler.begun, published, NEGATIVE)
    expected = Counter([*published, *twice])
    wrong = {data: times for data, times in Counter(handler.begun).items() if times != expected[data]}
    what = f"{len(wrong)} messages were delivered in another number than expected, such as {sorted(wrong.items())[:1]}"
    check(not wrong, f"{what} (expected: {[expected[data] for data in sorted(wrong)[:1]]})", NEGATIVE)


def _together(handlers: List[RecordingHandler]) -> List[Any]:
    return [data for handler in handlers for data in list(handler.handled)]
