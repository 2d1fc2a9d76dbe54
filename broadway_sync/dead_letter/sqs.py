"""
Dead letters in a queue of Amazon SQS.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence, Tuple

from ..connectors.common.reporter import describe
from ..connectors.sqs.requests import region_of
from ..extras import load
from ..log import safe_repr
from ..rules import mistake, takes
from .errors import LetterRefusedError, PartlyWrittenError
from .held import Held
from .letter import PREFIX, Letter

MOST_ENTRIES = 10
MOST_BYTES = 262_144
"""Of one request, all of its messages with their attributes: what every region and every queue takes."""

_TIMEOUT = 10.0  # seconds
Entry = Dict[str, Any]


class SQSLetters:
    """
    Sends to a queue, standard or FIFO.

    Accepted means that the service said so for this very message. The letter's body is the body, everything else is in
    attributes. What is no text that SQS takes is sent as base64, and the attribute ``broadway-encoding`` says so.

    Of a FIFO queue the message group is that of the message, if it came from one, else the pipeline's name; letters
    that are the same, of the same message, within five minutes are one.
    """

    def __init__(self, queue_url: str, *, session: Optional[Callable[[], Any]] = None, **client_arguments: Any) -> None:
        """
        Args:
            queue_url: Address of the queue.
            session: Returns the boto3 session to use.
            client_arguments: For ``boto3.Session.client``, by its names: ``region_name`` (default: the one in
                *queue_url*), ``endpoint_url``, ``aws_access_key_id``, and so on.

        Raises:
            ConfigurationError: An argument is wrong, or boto3 is missing.
        """
        if not isinstance(queue_url, str) or not queue_url:
            raise mistake("queue_url", f"expected the address of a queue, got: {safe_repr(queue_url)}")
        if session is not None and not takes(0)(session):
            raise mistake("session", f"expected a function that returns a boto3.Session, got: {safe_repr(session)}")
        self._boto3 = load("boto3", "sqs", "SQSLetters")
        self._queue_url = queue_url
        self._session = session
        self._arguments = client_arguments
        self._held = Held(self._open, lambda client: client.close())

    def __repr__(self) -> str:
        return f"SQSLetters({self._queue_url!r})"

    def write(self, letters: Sequence[Letter]) -> None:
        """
        Send *letters*, ten at a time.

        Raises:
            LetterRefusedError: Some were refused for good.
            PartlyWrittenError: Some were refused, or not sent.
        """
        left = list(letters)
        refused: List[str] = []
        is_final = True
        try:
            for lot in _lots([(letter, self._entry(letter)) for letter in letters]):
                failed = self._send(lot)
                given = {id(letter) for letter, _ in lot} - {id(letter) for letter, _, _ in failed}
                left = [letter for letter in left if id(letter) not in given]
                refused += [text for _, text, _ in failed]
                is_final = is_final and all(final for _, _, final in failed)
        except Exception as error:  # a client library, or the service: this lot was not sent, nor what comes after it
            text = f"{len(letters) - len(left)} of {len(letters)} letters were accepted: {describe(error)}"
            raise PartlyWrittenError(text, left) from error
        if left:
            text = f"{len(letters) - len(left)} of {len(letters)} letters were accepted: {refused[0]}"
            raise (LetterRefusedError if is_final else PartlyWrittenError)(text, left)

    def close(self) -> None:
        """
        Close the connections; the next letter opens others.
        """
        self._held.close()

    def _open(self) -> Any:
        from botocore.config import Config

        session = self._session() if self._session is not None else self._boto3.Session()
        config = Config(connect_timeout=_TIMEOUT, read_timeout=_TIMEOUT, retries={"mode": "standard"})
        given = dict(self._arguments)
        if "config" in given:
            config = config.merge(given.pop("config"))
        region = given.pop("region_name", None) or region_of(self._queue_url) or session.region_name
        return session.client("sqs", region_name=region, config=config, **given)

    def _send(self, lot: List[Tuple[Letter, Entry]]) -> List[Tuple[Letter, str, bool]]:
        """
        Send one request; return the letters that were refused, why, and whether for good.
        """
        size = _size(lot[0][1])
        if size > MOST_BYTES:  # such a letter is alone
            return [(lot[0][0], f"{size} bytes with attributes, and SQS takes {MOST_BYTES}", True)]
        entries = [{"Id": str(number), **entry} for number, (_, entry) in enumerate(lot)]
        answer = self._held.get().send_message_batch(QueueUrl=self._queue_url, Entries=entries)
        return [
            (
                lot[int(each["Id"])][0],
                f"{each.get('Code')}: {each.get('Message', '')}",
                bool(each.get("SenderFault")),
            )
            for each in answer.get("Failed") or ()
        ]

    def _entry(self, letter: Letter) -> Entry:
        text = letter.text
        headers = letter.headers()
        if not text:
            headers[PREFIX + "encoding"] = "base64"
            # SQS refuses an empty body; decoders of base64 pass over a space.
            text = base64.b64encode(letter.body).decode("ascii") or " "
        entry: Entry = {
            "MessageBody": text,
            "MessageAttributes": {
                name: {"DataType": "String", "StringValue": value} for name, value in headers.items()
            },
        }
        if self._queue_url.endswith(".fifo"):
            entry.update(_of_fifo(letter))
        return entry


def _of_fifo(letter: Letter) -> Entry:
    attributes = letter.message.metadata.get("attributes")
    group = attributes.get("message_group_id") if isinstance(attributes, dict) else None
    # Without an id of its own it is this object, at this time: a later message may have its place in memory.
    identity = letter.message.metadata.get("message_id") or (id(letter.message), letter.failed_at)
    digest = hashlib.sha256(repr((identity, letter.pipeline, letter.body)).encode("utf-8"))
    return {
        "MessageGroupId": group if isinstance(group, str) and group else _to_group(letter.pipeline),
        "MessageDeduplicationId": digest.hexdigest(),
    }


def _to_group(name: str) -> str:
    """
    Return a name that SQS takes for a message group.
    """
    return "".join(each if each.isascii() and each.isprintable() and each != " " else "_" for each in name)[:128] or "_"


def _size(entry: Entry) -> int:
    """
    Return what the service counts of a message.
    """
    attributes = entry["MessageAttributes"].items()
    return len(entry["MessageBody"].encode("utf-8")) + sum(
        len(name) + len("String") + len(value["StringValue"].encode("utf-8")) for name, value in attributes
    )


def _lots(entries: Iterable[Tuple[Letter, Entry]]) -> Iterable[List[Tuple[Letter, Entry]]]:
    """
    Divide into requests that the service takes.
    """
    lot: List[Tuple[Letter, Entry]] = []
    total = 0
    for letter, entry in entries:
        size = _size(entry)
        if lot and (len(lot) == MOST_ENTRIES or total + size > MOST_BYTES):
            yield lot
            lot, total = [], 0
        lot.append((letter, entry))
        total += size
    if lot:
        yield lot
