"""
The contract's tests of a broker that goes away, refuses, or comes late; and of what is said about it.
"""

from __future__ import annotations

import contextlib
import re
from typing import Any, Iterator, List, Mapping, Sequence

from ..errors import ConfigurationError
from ..message import Message
from . import hints
from .contract_base import (
    check,
    check_empty,
    check_nothing_lost,
    check_once,
    hint,
    hold,
    make_pipeline,
    need,
    publish,
    recorder,
    running,
    skip,
    started,
    timed_stop,
    wait_for_begun,
    wait_for_handled,
    watch,
)
from .harness import ConnectorHarness, offers
from .hints import CONNECTING, RECONNECTING, REFUSED, STOPPING_OFFLINE
from .waiting import Gate, wait_until
from .watching import Watcher

TALK = 5
"""Log records that one change of state may cost: one, a second for another kind of error, and some tolerance."""


class FaultContract:
    """
    Faults: nothing lost, duplicates only of what was in flight, and one record for each change of state.
    """

    def test_reconnects_after_a_cut(self, harness: ConnectorHarness) -> None:
        """
        The connection is cut while messages are in flight, and again while nothing is.
        """
        need(harness, "cut")
        gate = Gate()
        handler = recorder(harness, hold(harness, gate, lambda data, attempt: data[:6] == "during" and attempt == 1))
        with running(harness, handler), gate:
            before = publish(harness, "before", harness.count // 2)
            wait_for_handled(harness, handler, before, hints.RECEIVING)
            check_empty(harness, hints.ACKNOWLEDGING)
            during = publish(harness, "during", harness.count // 2)
            gate.arrived(harness.timeout)
            harness.cut()
            gate.open()
            wait_for_handled(harness, handler, during, RECONNECTING, again=True)
            check_empty(harness, RECONNECTING)
            harness.cut()
            after = publish(harness, "after", harness.count // 2)
            wait_for_handled(harness, handler, after, RECONNECTING, again=True)
            check_empty(harness, RECONNECTING)
        check_nothing_lost(handler.begun, before + during + after, RECONNECTING)
        rest = [data for data in handler.begun if not data.startswith("during")]
        check_once(rest, before + after, hints.NOT_IN_FLIGHT)

    def test_survives_a_hang(self, harness: ConnectorHarness) -> None:
        """
        The broker hangs while messages are in flight, and goes on: what was acknowledged meanwhile reaches it.
        """
        need(harness, "stall", "resume")
        gate = Gate()
        handler = recorder(harness, hold(harness, gate, lambda data, attempt: data[:6] == "during" and attempt == 1))
        with running(harness, handler), gate, _passing_again(harness):
            before = publish(harness, "before", harness.count // 2)
            wait_for_handled(harness, handler, before, hints.RECEIVING)
            check_empty(harness, hints.ACKNOWLEDGING)
            during = publish(harness, "during", harness.count // 2)
            gate.arrived(harness.timeout)
            harness.stall()
            gate.open()
            watch(harness, 2)
            harness.resume()
            wait_for_handled(harness, handler, during, hints.HANGING, again=True)
            after = publish(harness, "after", harness.count // 2)
            wait_for_handled(harness, handler, after, hints.HANGING, again=True)
            check_empty(harness, hints.HANGING)
        check_nothing_lost(handler.begun, before + during + after, hints.HANGING)
        check_once([data for data in handler.begun if data in before], before, hints.NOT_IN_FLIGHT)

    def test_broker_is_down_at_the_start(self, harness: ConnectorHarness) -> None:
        """
        ``start()`` does not fail; the producer tries again until the broker is there, and says so once.
        """
        need(harness, "take_down", "bring_up")
        handler = recorder(harness)
        pipeline = make_pipeline(harness, handler)
        harness.take_down()
        with Watcher(harness.loggers, harness.events) as watcher, _up_again(harness), started(harness, pipeline):
            with hint(CONNECTING):
                wait_until(watcher.complaints, harness.timeout, "a log record says that the broker is not there")
            watch(harness, 2)
            complaints = watcher.complaints()
            check(len(complaints) <= TALK, f"{len(complaints)} records for one fault: {complaints[:6]}", CONNECTING)
            check("the producer crashed" not in str(complaints), "the producer crashed, and will give up", CONNECTING)
            check(pipeline.state == "running", f"the pipeline is {pipeline.state}", CONNECTING)
            harness.bring_up()
            published = publish(harness, "late", harness.count // 2)
            wait_for_handled(harness, handler, published, RECONNECTING, again=True)
            check_empty(harness, RECONNECTING)
        check_once(handler.begun, published, RECONNECTING)

    def test_stop_while_the_broker_is_down(self, harness: ConnectorHarness) -> None:
        """
        A stop in the middle of a reconnect waits for neither the back-off nor the broker.
        """
        need(harness, "take_down", "bring_up")
        handler = recorder(harness)
        pipeline = make_pipeline(harness, handler)
        with _up_again(harness), started(harness, pipeline):
            wait_for_handled(harness, handler, publish(harness, "gone", 5), hints.RECEIVING)
            check_empty(harness, hints.ACKNOWLEDGING)
            harness.take_down()
            watch(harness, 2)
            seconds = timed_stop(pipeline)
        what = f"a stop while the broker was down took {seconds:.1f} s"
        check(seconds < harness.stop_timeout, what, STOPPING_OFFLINE)

    def test_wrong_credentials(self, harness: ConnectorHarness) -> None:
        """
        Credentials that the broker refuses: a record that says so, no spin, no secret, and a stop that works.
        """
        need(harness, "wrong_credentials")
        pipeline = make_pipeline(harness, recorder(harness), module=harness.wrong_credentials())
        with Watcher(harness.loggers, harness.events) as watcher, started(harness, pipeline):
            with hint(REFUSED):
                wait_until(watcher.complaints, harness.timeout, "a log record says that the credentials are wrong")
            watch(harness, 2)
            seconds = timed_stop(pipeline)
        complaints = watcher.complaints()
        is_said = any(re.search(harness.refusal, text, re.IGNORECASE) for text in complaints)
        check(is_said, f"no record says {harness.refusal!r}: {complaints[:6]}", REFUSED)
        limit = TALK if pipeline.state == "stopped" else 10 * TALK  # crashes, restarts and a last word
        check(len(complaints) <= limit, f"{len(complaints)} records for one fault: {complaints[:6]}", REFUSED)
        check(seconds < harness.stop_timeout, f"the stop took {seconds:.1f} s", STOPPING_OFFLINE)
        _check_secrets(harness, watcher, [])

    def test_credentials_are_never_shown(self, harness: ConnectorHarness) -> None:
        """
        Neither logs nor errors nor telemetry hold a secret, with failures, wrong options and lost connections either.
        """
        if not harness.secrets:
            skip("the harness has no secrets")
        texts: List[str] = []
        is_calm: List[bool] = []

        def behave(message: Message, attempt: int) -> None:
            texts.append(repr(message))
            if not is_calm:
                raise ValueError("planned by the contract suite")

        handler = recorder(harness, behave)
        with Watcher(harness.loggers, harness.events) as watcher:
            with running(harness, handler) as pipeline:
                wait_for_begun(harness, handler, publish(harness, "angry", 5), hints.RECEIVING)
                is_calm.append(True)
                if offers(harness, "cut"):
                    harness.cut()
                wait_for_handled(harness, handler, publish(harness, "calm", 5), RECONNECTING, again=True)
                texts += [repr(pipeline.topology()), repr(pipeline)]
            texts += _option_errors(harness)
        _check_secrets(harness, watcher, texts)

    def test_unknown_option(self, harness: ConnectorHarness) -> None:
        """
        The constructor of the pipeline refuses an option that the producer does not have, and names it.
        """
        cls, options = harness.producer()
        try:
            make_pipeline(harness, recorder(harness), module=(cls, {**options, "no_such_option": 1}))
        except ConfigurationError as error:
            check("no_such_option" in str(error), f"the error does not name the option: {error}", hints.VALIDATING)
        else:
            check(False, "an unknown option was accepted", hints.VALIDATING)


def _option_errors(harness: ConnectorHarness) -> List[str]:
    """
    Return the texts of errors about the harness's options: one unknown, each of them of a wrong type, and each with
    bytes where it has a secret.
    """
    cls, options = harness.producer()
    wrong: List[Mapping[str, Any]] = [{"no_such_option": 1}]
    wrong += [{name: object()} for name in options]
    wrong += [{name: _with_bytes(value, harness.secrets)} for name, value in options.items()]
    texts = []
    for change in wrong:
        try:
            make_pipeline(harness, recorder(harness), module=(cls, {**options, **change}))
        except ConfigurationError as error:
            texts.append(str(error))
    return texts


def _with_bytes(value: Any, secrets: Sequence[str]) -> Any:
    """
    Return *value* with bytes in place of each str in it that has a secret.
    """
    if isinstance(value, str) and any(secret in value for secret in secrets):
        return value.encode("utf-8")
    if isinstance(value, Mapping):
        return {key: _with_bytes(item, secrets) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_with_bytes(item, secrets) for item in value)
    return value


def _check_secrets(harness: ConnectorHarness, watcher: Watcher, texts: List[str]) -> None:
    seen = [*watcher.texts(), *(("a text of an error or an object", text) for text in texts)]
    for where, text in seen:
        for secret in harness.secrets:
            shown = text.replace(secret, "<secret>")
            check(secret not in text, f"a secret is shown in {where}: {shown:.300}", hints.SHOWING)


@contextlib.contextmanager
def _passing_again(harness: ConnectorHarness) -> Iterator[None]:
    """
    Let everything pass at the end, whatever happened.
    """
    try:
        yield
    finally:
        harness.resume()


@contextlib.contextmanager
def _up_again(harness: ConnectorHarness) -> Iterator[None]:
    """
    Bring the broker up at the end, whatever happened.
    """
    try:
        yield
    finally:
        harness.bring_up()
