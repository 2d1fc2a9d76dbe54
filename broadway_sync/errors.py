"""
Everything that broadway_sync raises.

.. code-block:: text

    BroadwayError (Exception)
        ConfigurationError (ValueError)             an option, a callback or a call's argument is wrong
        AlreadyStartedError (RuntimeError)          a pipeline of that name runs in this process
        NotRunningError (RuntimeError)              the call needs a running pipeline
        RateLimitingNotEnabledError (RuntimeError)  the pipeline has no ``rate_limiting``
        AckConfigurationError (TypeError)           the acknowledger has no ``configure``
        InvalidReturnError (TypeError)              a callback returned what it must not
        UnknownBatcherError (ValueError)            a message was put to a batcher that does not exist
        DrainTimeoutError (TimeoutError)            a stop left messages or threads behind
        PipelineFailedError (RuntimeError)          the pipeline gave up; ``__cause__`` is the last crash
        ConnectorError                              base of what connectors raise
    EndOfStream (Exception)                         raised by producers: no more messages, ever
"""

from __future__ import annotations

from typing import Any, Iterable, Mapping, Tuple


class BroadwayError(Exception):
    """
    Base of the errors of this library.
    """


class ConfigurationError(BroadwayError, ValueError):
    """
    An option is unknown, missing, of the wrong type or out of range.

    The text gives the option's path, the value, the rule, and for an unknown name the valid ones.
    """


class AlreadyStartedError(BroadwayError, RuntimeError):
    """
    A pipeline of that name runs in this process already.
    """


class NotRunningError(BroadwayError, RuntimeError):
    """
    The call needs a running pipeline, and this one is not, or is being stopped.
    """


class RateLimitingNotEnabledError(BroadwayError, RuntimeError):
    """
    The pipeline was configured without ``rate_limiting``.
    """


class AckConfigurationError(BroadwayError, TypeError):
    """
    ``configure_ack`` was called on a message whose acknowledger cannot be configured.
    """


class InvalidReturnError(BroadwayError, TypeError):
    """
    A callback returned something that it must not; the reason of the messages that fail for it.
    """


class UnknownBatcherError(BroadwayError, ValueError):
    """
    A message was put to a batcher that the pipeline does not have; the reason of that message.
    """


class DrainTimeoutError(BroadwayError, TimeoutError):
    """
    A stop ran out of time; what it left behind is neither acknowledged nor failed.

    Attributes:
        left_behind: How many messages were left, so that the source delivers them again.
        threads: The stack, as text, of each thread that had not ended, by thread name.
    """

    def __init__(self, text: str, left_behind: int, threads: Mapping[str, str]) -> None:
        super().__init__(text)
        self.left_behind = left_behind
        self.threads = dict(threads)

    def __reduce__(self) -> Tuple[Any, ...]:
        """
        For copies and pickles: a worker process must be able to raise it to its parent.
        """
        return type(self), (str(self), self.left_behind, self.threads), self.__dict__


class PipelineFailedError(BroadwayError, RuntimeError):
    """
    The pipeline crashed more often than its budget allows and gave up; ``__cause__`` says why.
    """


class ConnectorError(BroadwayError):
    """
    Base of what connectors raise.
    """


class EndOfStream(Exception):  # noqa: N818 - a signal like StopIteration, not an error
    """
    Raised by :meth:`Producer.handle_demand`: after these messages there is never another one.

    Args:
        messages: The last messages (or events, with a transformer).
    """

    def __init__(self, messages: Iterable[Any] = ()) -> None:
        super().__init__("end of stream")
        self.messages = messages
