"""
Dead letters in a topic of Google Cloud Pub/Sub.
"""

from __future__ import annotations

import re
from typing import Any, List, Mapping, Optional, Sequence

from ..connectors.common.reporter import describe
from ..extras import load
from ..log import safe_repr
from ..rules import mistake
from .errors import LetterRefusedError, PartlyWrittenError
from .held import Held
from .letter import Letter

MOST_MESSAGES = 1000
MOST_BYTES = 10_000_000
"""Of one request, and so of a letter with its attributes."""
MOST_ATTRIBUTE = 1024
"""Bytes of an attribute's value."""

_TIMEOUT = 20.0  # seconds
_TOPIC = re.compile(r"projects/[^/]+/topics/[^/]+")


class PubSubLetters:
    """
    Publishes to a topic.

    Accepted means that the service has given the letter an id. The letter's body is the data, everything else is in
    attributes, each cut to 1024 bytes. One client, shared by all threads.
    """

    def __init__(
        self, topic: str, *, credentials: Any = None, client_options: Optional[Mapping[str, Any]] = None
    ) -> None:
        """
        Args:
            topic: ``"projects/<project>/topics/<topic>"``.
            credentials: Of google.auth, or the path of a service account file (None: the application default).
            client_options: For the client library's ClientOptions.

        Raises:
            ConfigurationError: An argument is wrong, or google-cloud-pubsub is missing.
        """
        if not isinstance(topic, str) or not _TOPIC.fullmatch(topic):
            raise mistake("topic", f'expected "projects/<project>/topics/<topic>", got: {safe_repr(topic)}')
        self._pubsub = load("google.cloud.pubsub_v1", "pubsub", "PubSubLetters")
        self._publisher = load("google.pubsub_v1", "pubsub", "PubSubLetters").PublisherClient
        self._errors = load("google.api_core.exceptions", "pubsub", "PubSubLetters")
        self._topic = topic
        self._credentials = credentials
        self._client_options = dict(client_options) if client_options else None
        self._held = Held(self._open, lambda client: client.transport.close())

    def __repr__(self) -> str:
        return f"PubSubLetters({self._topic!r})"

    def write(self, letters: Sequence[Letter]) -> None:
        """
        Publish *letters*, up to a thousand with one request.

        Raises:
            LetterRefusedError: The service calls one of them invalid: it is too large.
            PartlyWrittenError: A request failed.
        """
        left: List[Letter] = []
        errors: List[Exception] = []
        for lot in _lots(letters):
            try:
                self._publish(lot)
            except Exception as error:  # a client library, or the service: this request was not accepted
                left += lot
                errors.append(error)
        if not left:
            return
        is_final = all(isinstance(error, self._errors.InvalidArgument) for error in errors)
        text = f"{len(letters) - len(left)} of {len(letters)} letters were accepted: {describe(errors[0])}"
        raise (LetterRefusedError if is_final else PartlyWrittenError)(text, left) from errors[0]

    def close(self) -> None:
        """
        Close the connections; the next letter opens others.
        """
        self._held.close()

    def _open(self) -> Any:
        # This one, and not the one it is based on, knows PUBSUB_EMULATOR_HOST.
        make = self._pubsub.PublisherClient
        if isinstance(self._credentials, str):
            return make.from_service_account_file(self._credentials, client_options=self._client_options)
        return make(credentials=self._credentials, client_options=self._client_options)

    def _publish(self, lot: List[Letter]) -> None:
        if _size(lot[0]) > MOST_BYTES:  # such a letter is alone
            raise self._errors.InvalidArgument(f"a letter of {_size(lot[0])} bytes, and Pub/Sub takes {MOST_BYTES}")
        messages = [{"data": letter.body, "attributes": letter.headers(MOST_ATTRIBUTE)} for letter in lot]
        # The plain request: publish() of the client itself hands over to threads, and goes on trying for minutes.
        self._publisher.publish(
            self._held.get(), request={"topic": self._topic, "messages": messages}, retry=None, timeout=_TIMEOUT
        )


def _lots(letters: Sequence[Letter]) -> List[List[Letter]]:
    """
    Divide into requests that the service takes.
    """
    lots: List[List[Letter]] = []
    room = 0
    for letter in letters:
        size = _size(letter)
        if not lots or len(lots[-1]) == MOST_MESSAGES or size > room:
            lots.append([])
            room = MOST_BYTES
        lots[-1].append(letter)
        room -= size
    return lots


def _size(letter: Letter) -> int:
    """
    Return no less than what a letter takes in a request.
    """
    return len(letter.body) + 10 * MOST_ATTRIBUTE
