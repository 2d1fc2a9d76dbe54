"""
Dead letters in a topic of Kafka.
"""

from __future__ import annotations

from time import monotonic
from typing import Any, List, Sequence, Tuple

from ..connectors.common.reporter import describe
from ..connectors.kafka.discretion import keep_secrets
from ..extras import load
from ..rules import mistake
from .errors import LetterRefusedError, PartlyWrittenError
from .held import CLOSE_PATIENCE, Held
from .letter import Letter

# Seconds: how long one letter may take.
_PATIENCE = 20.0
# What makes "accepted" true, and bodies what they are.
_RESERVED = ("acks", "key_serializer", "value_serializer")
# The client's own times are made for programs that have nothing else to do than to wait.
DEFAULTS = {
    "acks": "all",
    # It would end the client at the first letter that is too large. What it is for, no copies, a letter cannot promise.
    "enable_idempotence": False,
    "request_timeout_ms": 10_000,
    "delivery_timeout_ms": int(_PATIENCE * 1000),
    "max_block_ms": 10_000,
    "bootstrap_timeout_ms": 5_000,
    "api_version_auto_timeout_ms": 5_000,
}
Outcome = Tuple[List[Letter], List[Exception]]
"""Letters that were not acknowledged, and why."""


class KafkaLetters:
    """
    Sends to a topic.

    Accepted means acknowledged by all in-sync replicas. The letter's body is the value, everything else is in headers;
    a message that came from Kafka keeps its key. One client, shared by all threads, with a thread of its own.
    """

    def __init__(self, topic: str, **config: Any) -> None:
        """
        Args:
            topic: The topic.
            config: For ``kafka.KafkaProducer``, by its names and in its units: ``bootstrap_servers`` and whatever it
                takes to log in.

        Raises:
            ConfigurationError: An argument is wrong, or kafka-python is missing.
        """
        if not isinstance(topic, str) or not topic:
            raise mistake("topic", f"expected a non-empty str, got: {topic!r}")
        self._kafka = load("kafka", "kafka", "KafkaLetters")
        keep_secrets()
        known = self._kafka.KafkaProducer.DEFAULT_CONFIG
        for name in config:
            if name not in known or name in _RESERVED:
                raise mistake(name, "not an option of kafka.KafkaProducer that can be set here")
        self._topic = topic
        self._config = {**{name: value for name, value in DEFAULTS.items() if name in known}, **config}
        self._held = Held(self._open, lambda producer: producer.close(timeout=CLOSE_PATIENCE))

    def __repr__(self) -> str:
        return f"KafkaLetters({self._topic!r})"

    def write(self, letters: Sequence[Letter]) -> None:
        """
        Send *letters* and wait for all of them.

        Raises:
            LetterRefusedError: Some are too large for the client or the topic.
            PartlyWrittenError: Some are not acknowledged.
            Exception: What kafka-python raises: none are.
        """
        left, errors = self._send_all(letters)
        if len(letters) > 1 and self._are_too_large(errors):
            # A broker that refuses a letter refuses those that travel with it.
            left, errors = self._send_singly(left)
        if not left:
            return
        kind = LetterRefusedError if self._are_too_large(errors) else PartlyWrittenError
        text = f"{len(letters) - len(left)} of {len(letters)} letters were acknowledged: {describe(errors[0])}"
        raise kind(text, left) from errors[0]

    def close(self) -> None:
        """
        Close the client; the next letter opens another one.
        """
        self._held.close()

    def _open(self) -> Any:
        made: List[Any] = []

        def make_network(*args: Any, **options: Any) -> Any:
            made.append(self._kafka.KafkaProducer.DEFAULT_CONFIG["kafka_client"](*args, **options))
            return made[-1]

        try:
            return self._kafka.KafkaProducer(**{"kafka_client": make_network, **self._config})
        except BaseException:
            for network in made:  # which the client leaves open when no broker answers
                network.close()
            raise

    def _are_too_large(self, errors: List[Exception]) -> bool:
        return bool(errors) and all(isinstance(each, self._kafka.errors.MessageSizeTooLargeError) for each in errors)

    def _send_all(self, letters: Sequence[Letter]) -> Outcome:
        """
        Send *letters* and wait; return those that were not acknowledged, and the errors.
        """
        producer = self._held.get()
        sent: List[Tuple[Letter, Any]] = []
        left: List[Letter] = []
        errors: List[Exception] = []
        for letter in letters:
            try:
                sent.append((letter, self._send(producer, letter)))
            except Exception as error:  # a client library; it may like the next one better
                left.append(letter)
                errors.append(error)
                if not self._are_too_large([error]):  # it has waited for long enough
                    left += letters[len(sent) + len(left) :]
                    break
        _wait(sent, left, errors)
        if errors and not self._are_too_large(errors):  # the next attempt shall not begin with the faults of this one
            self._held.close(producer)
        return left, errors

    def _send_singly(self, letters: Sequence[Letter]) -> Outcome:
        """
        Do the same for one letter after the other, until there is something else than a letter that is too large.
        """
        left: List[Letter] = []
        errors: List[Exception] = []
        for number, letter in enumerate(letters):
            try:
                again, caught = self._send_all([letter])
            except Exception as error:  # there is no client any more; the letters before are acknowledged all the same
                again, caught = [letter], [error]
            errors += caught
            if caught and not self._are_too_large(caught):
                return [*left, *letters[number:]], errors
            left += again
        return left, errors

    def _send(self, producer: Any, letter: Letter) -> Any:
        key = letter.message.metadata.get("key")
        return producer.send(
            self._topic,
            value=letter.body,
            key=key if isinstance(key, bytes) and key else None,
            headers=[(name, value.encode("utf-8")) for name, value in letter.headers().items()],
        )


def _wait(sent: List[Tuple[Letter, Any]], left: List[Letter], errors: List[Exception]) -> None:
    """
    Wait for the client's promises; add the letters that were not acknowledged, and why.
    """
    deadline = monotonic() + _PATIENCE
    for letter, future in sent:
        try:
            future.get(timeout=max(0.1, deadline - monotonic()))
        except Exception as error:  # a client library
            left.append(letter)
            errors.append(error)
