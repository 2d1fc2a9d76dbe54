"""
Dead letters in a topic of Kafka.
"""

from __future__ import annotations

from time import monotonic
from typing import Any, List, Optional, Sequence, Tuple

from ..connectors.common.reporter import describe
from ..rules import mistake
from .errors import LetterRefusedError, PartlyWrittenError
from .held import Held, load
from .letter import Letter

# Seconds: how long one letter may take, and the end of the client.
_PATIENCE = 20.0
_CLOSE_PATIENCE = 5.0
# What makes "accepted" true, and bodies what they are.
_RESERVED = ("acks", "key_serializer", "value_serializer")
# The client's own times are made for programs that have nothing else to do than to wait.
_DEFAULTS = {
    "acks": "all",
    "request_timeout_ms": 10_000,
    "delivery_timeout_ms": int(_PATIENCE * 1000),
    "max_block_ms": 10_000,
}
Sent = List[Tuple[Letter, Any]]
"""Letters and the client's promises for them."""


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
        known = self._kafka.KafkaProducer.DEFAULT_CONFIG
        for name in config:
            if name not in known or name in _RESERVED:
                raise mistake(name, "not an option of kafka.KafkaProducer that can be set here")
        self._topic = topic
        self._config = {**{name: value for name, value in _DEFAULTS.items() if name in known}, **config}
        self._held = Held(self._open, lambda producer: producer.close(timeout=_CLOSE_PATIENCE))

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
        producer = self._held.get()
        error: Optional[Exception] = None
        sent: Sent = []
        try:
            for letter in letters:
                sent.append((letter, self._send(producer, letter)))
        except Exception as caught:  # a client library: those before it are on their way
            error = caught
        left, errors = _wait(sent)
        left += letters[len(sent) :]
        errors += [error] if error is not None else []
        if not left:
            return
        refused = all(isinstance(each, self._kafka.errors.MessageSizeTooLargeError) for each in errors)
        if not refused:  # after a timeout an idempotent producer is good for nothing any more
            self._held.close(producer)
        text = f"{len(letters) - len(left)} of {len(letters)} letters were acknowledged: {describe(errors[0])}"
        raise (LetterRefusedError if refused else PartlyWrittenError)(text, left) from errors[0]

    def close(self) -> None:
        """
        Close the client; the next letter opens another one.
        """
        self._held.close()

    def _open(self) -> Any:
        return self._kafka.KafkaProducer(**self._config)

    def _send(self, producer: Any, letter: Letter) -> Any:
        key = letter.message.metadata.get("key")
        return producer.send(
            self._topic,
            value=letter.body,
            key=key if isinstance(key, bytes) and key else None,
            headers=[(name, value.encode("utf-8")) for name, value in letter.headers().items()],
        )


def _wait(sent: Sent) -> Tuple[List[Letter], List[Exception]]:
    """
    Return the letters that were not acknowledged, and why.
    """
    left: List[Letter] = []
    errors: List[Exception] = []
    deadline = monotonic() + _PATIENCE
    for letter, future in sent:
        try:
            future.get(timeout=max(0.1, deadline - monotonic()))
        except Exception as error:  # a client library
            left.append(letter)
            errors.append(error)
    return left, errors
