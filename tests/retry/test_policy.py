"""
How a policy is declared, and what is wrong with one.
"""

from __future__ import annotations

import sys
import types
from typing import Any
from unittest import mock

import pytest

from broadway_sync import ConfigurationError, Message, Retry
from broadway_sync.retry import policy_for
from tests.helpers import make_handler, run_python


def test_the_defaults() -> None:
    """
    Three attempts, after any Exception.
    """
    policy = Retry()
    assert (policy.max_attempts, policy.backoff, policy.on, policy.never) == (3, (0.1, 10.0), (Exception,), ())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"max_attempts": 0}, "max_attempts: expected an int > 0, got: 0"),
        ({"max_attempts": True}, "max_attempts: expected an int > 0, got: True"),
        ({"backoff": (2, 1)}, "backoff: expected (shortest, longest) seconds with 0 <= shortest <= longest, or a"),
        ({"backoff": (-1, 1)}, "got: (-1, 1)"),
        ({"backoff": (0, float("inf"))}, "got: (0, inf)"),
        ({"backoff": (1,)}, "got: (1,)"),
        ({"backoff": 1.0}, "got: 1.0"),
        ({"backoff": lambda: 1}, "or a function attempt -> seconds, got: <function"),
        ({"on": "ValueError"}, "on: expected an exception class or a tuple of them, got: 'ValueError'"),
        ({"on": (ValueError, 3)}, "on: expected an exception class or a tuple of them"),
        ({"on": ValueError("x")}, "on: expected an exception class or a tuple of them"),
        ({"never": int}, "never: expected an exception class or a tuple of them"),
    ],
)
def test_a_mistake_is_named(options: dict[str, Any], text: str) -> None:
    """
    With the option, the value and the rule.
    """
    with pytest.raises(ConfigurationError) as caught:
        Retry(**options)
    assert text in str(caught.value)


def test_one_class_is_enough() -> None:
    """
    And a list is as good as a tuple.
    """
    policy = Retry(on=OSError, never=[FileNotFoundError, PermissionError])
    assert policy.on == (OSError,)
    assert policy.never == (FileNotFoundError, PermissionError)
    assert policy.covers(ConnectionResetError())
    assert not policy.covers(FileNotFoundError())
    assert not policy.covers(ValueError())


def test_what_ends_a_program_is_covered_by_name_only() -> None:
    """
    Exception is no base of SystemExit.
    """
    assert not Retry().covers(SystemExit())
    assert Retry(on=SystemExit).covers(SystemExit())


class Decorated:
    """
    Every kind of method.
    """

    @Retry(max_attempts=5)
    def handle_message(self, processor: str, message: Message, context: Any) -> Message:
        """
        A method.
        """
        return message

    @Retry(max_attempts=6)
    @staticmethod
    def handle_batch(batcher: str, messages: list[Message], batch_info: Any, context: Any) -> list[Message]:
        """
        A static method.
        """
        return messages

    @Retry(max_attempts=7)
    @classmethod
    def prepare_messages(cls, messages: list[Message], context: Any) -> list[Message]:
        """
        A class method.
        """
        return messages

    @classmethod
    @Retry(max_attempts=8)
    def handle_failed(cls, messages: list[Message], context: Any) -> list[Message]:
        """
        The other way round.
        """
        return messages


@pytest.mark.parametrize("handler", [Decorated(), Decorated])
def test_a_decorated_callback_is_marked(handler: Any) -> None:
    """
    Whatever kind of method it is.
    """
    names = ("handle_message", "handle_batch", "prepare_messages", "handle_failed")
    policies = [policy_for(handler, name) for name in names]
    assert [policy and policy.max_attempts for policy in policies] == [5, 6, 7, 8]


def test_a_decorated_callback_is_not_changed() -> None:
    """
    A unit test calls the function that was written.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        raise ValueError

    assert Retry()(handle_message) is handle_message


def test_what_cannot_be_marked_is_refused() -> None:
    """
    With the other way to declare it.
    """
    with pytest.raises(ConfigurationError, match="expected a function to decorate, got: <built-in.*attribute `retry`"):
        Retry()(len)


def test_a_handler_is_no_callback() -> None:
    """
    It would take the mark, where nobody looks for it.
    """
    with pytest.raises(ConfigurationError, match="expected a function to decorate, got: <class .*attribute `retry`"):

        @Retry()
        class Handler:
            pass


def test_the_attribute_is_for_messages_and_batches() -> None:
    """
    Other callbacks are named.
    """
    policy = Retry()
    handler = make_handler(retry=policy, prepare_messages=lambda messages, context: messages)
    assert policy_for(handler, "handle_message") is policy
    assert policy_for(handler, "handle_batch") is policy
    assert policy_for(handler, "prepare_messages") is None


def test_a_mapping_names_callbacks() -> None:
    """
    Those that it does not name have no policy.
    """
    policy = Retry()
    handler = make_handler(retry={"handle_batch": policy, "prepare_messages": policy})
    assert policy_for(handler, "handle_batch") is policy
    assert policy_for(handler, "prepare_messages") is policy
    assert policy_for(handler, "handle_message") is None


def test_the_decorator_wins() -> None:
    """
    It is closer to the callback.
    """
    mine, general = Retry(max_attempts=2), Retry(max_attempts=9)
    handler = make_handler(retry=general)
    handler.handle_message = mine(handler.handle_message)
    assert policy_for(handler, "handle_message") is mine
    assert policy_for(handler, "handle_batch") is general


@pytest.mark.parametrize(
    ("declared", "text"),
    [
        (3, "handler.retry: expected a Retry, or a mapping from callbacks to one each, got: 3"),
        (Retry, "handler.retry: expected a Retry, or a mapping from callbacks to one each, got: <class"),
        (
            {"handle_mesage": Retry()},
            "handler.retry.handle_mesage: unknown callback, valid ones are: prepare_messages, handle_message, "
            "handle_batch, handle_failed",
        ),
        ({"handle_batch": 3}, "handler.retry.handle_batch: expected a Retry, got: 3"),
    ],
)
def test_a_pipeline_refuses_a_wrong_declaration(make_pipeline: Any, declared: Any, text: str) -> None:
    """
    Before anything is started.
    """
    with pytest.raises(ConfigurationError) as caught:
        make_pipeline(make_handler(retry=declared))
    assert text in str(caught.value)


def test_something_else_of_that_name_is_left_alone() -> None:
    """
    A method of the handler, a function that its module imports, or an object with an answer to everything.
    """
    handlers = [make_handler(retry=lambda: None), make_handler(retry=types), mock.Mock(), make_handler(retry=None)]
    assert [policy_for(handler, "handle_message") for handler in handlers] == [None] * 4


def test_a_missing_library_is_told_before_the_start(make_pipeline: Any, monkeypatch: Any) -> None:
    """
    And not at the first failure; without a policy nobody misses it.
    """
    monkeypatch.setitem(sys.modules, "tenacity", None)
    make_pipeline()
    with pytest.raises(ConfigurationError, match=r"handler\.retry: a Retry needs tenacity, .*'broadway_sync\[retry\]'"):
        make_pipeline(make_handler(retry=Retry()))


def test_declaring_a_policy_imports_nothing() -> None:
    """
    A module with decorated callbacks can be imported, and its functions tested, without the library.
    """
    done = run_python("import sys, broadway_sync; broadway_sync.Retry()(lambda: 1); print('tenacity' in sys.modules)")
    assert done.stdout.strip() == "False"
