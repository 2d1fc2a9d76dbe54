"""
A ready-made ``handle_failed`` that keeps failed messages: in a queue, a topic, a table, a file or anywhere else.

Importing this package imports no client library.
"""

from __future__ import annotations

from .callback import DeadLetter, Writer
from .errors import DeadLetterError, LetterRefusedError, PartlyWrittenError, TooManyFailuresError
from .file import FileLetters
from .kafka import KafkaLetters
from .letter import Letter
from .pubsub import PubSubLetters
from .rabbitmq import RabbitMQLetters
from .sqs import SQSLetters
from .table import TableLetters

__all__ = [
    "DeadLetter",
    "Letter",
    # where letters go
    "FileLetters",
    "TableLetters",
    "RabbitMQLetters",
    "KafkaLetters",
    "SQSLetters",
    "PubSubLetters",
    "Writer",
    # errors
    "DeadLetterError",
    "TooManyFailuresError",
    "PartlyWrittenError",
    "LetterRefusedError",
]
