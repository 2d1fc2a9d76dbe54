"""
The interface of producers, and what the runtime gives them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Iterable, List, Mapping, Optional, Tuple

from .log import safe_repr
from .message import Message

if TYPE_CHECKING:
    from .options import PipelineOptions


class Stage:
    """
    A producer's view of the stage that runs it: ``producer.stage``, set before ``init``.

    Every instance of a producer has its own.
    """

    pipeline_name: str
    """Name of the pipeline."""

    name: str
    """Name of the stage and its thread."""

    index: int
    """Number of this producer, from 0."""

    options: PipelineOptions
    """All options of the pipeline."""

    has_refused = False
    """Whether nothing got in of what the last callback returned: the transformer raised, or something is no Message."""

    @property
    def draining(self) -> bool:
        """
        Whether a stop has begun: finish what is under way, take nothing new.
        """
        raise NotImplementedError

    def emit(self, messages: Iterable[Any]) -> None:
        """
        Hand over messages (events, with a transformer), for sources that push.

        All or none: blocks while the stage's buffer holds ``buffer_size`` messages, then takes them all. Thread-safe.

        Raises:
            NotRunningError: The stage drains, or this producer was restarted; none of the messages was taken.
            TypeError: Something is not a Message and there is no transformer. What the transformer raises.
        """
        raise NotImplementedError

    def wake(self) -> None:
        """
        Ask the producer again at once, if there is demand, and end a :meth:`wait`. Thread-safe.
        """
        raise NotImplementedError

    def wait(self, seconds: float) -> bool:
        """
        Wait, on the producer's thread, until the time is over, :meth:`wake` is called or the stage drains.

        Returns:
            False if the time is over.
        """
        raise NotImplementedError


class Producer:
    """
    Where messages come from. Subclass it and define :meth:`handle_demand`.

    One instance is made for each index, and again after each crash, on the producer's own thread; apart from
    ``prepare_for_start`` and ``validate_options`` everything is called there. What a method raises crashes the
    producer: it is terminated and made again.

    Follows Broadway 1.3, ``producer.ex``, and GenStage's producers.
    """

    poll_interval: float = 0.1
    """Seconds before asking again when less came than was wanted; ``math.inf``: not before ``stage.wake()``."""

    buffer_size: int = 1000
    """Messages that ``stage.emit`` lets wait for a processor before it blocks."""

    max_concurrency: Optional[int] = None
    """The largest ``concurrency`` that makes sense for this producer; None for any."""

    stage: Stage
    """Set by the runtime before :meth:`init`."""

    def init(self) -> None:
        """
        Optional: connect here. Called before the first demand.
        """

    def handle_demand(self, demand: int) -> Iterable[Any]:
        """
        Return messages (events, with a transformer), whenever *demand* >= 1 is unmet.

        Fewer than *demand*: asked again after :attr:`poll_interval`, or at once after ``stage.wake()``. More: kept.
        May block, but not for longer than a second once ``stage.draining`` is true. The default returns nothing, for
        producers that only ``emit``.

        Raises:
            EndOfStream: There is never again any message after those that it carries.
        """
        return ()

    def prepare_for_draining(self) -> Iterable[Any]:
        """
        Optional: a stop has begun; stop the source's deliveries and return the last messages.
        """
        return ()

    def terminate(self, reason: Any) -> None:
        """
        Optional: disconnect here. Called after every message that was produced has been acknowledged, or the
        shutdown time ran out, and before a restart.

        Args:
            reason: ``"normal"`` (exhausted), ``"shutdown"`` (stopped), ``"restart"`` (the pipeline restarts), or the
                exception that crashed this producer.
        """

    @classmethod
    def prepare_for_start(cls, handler: Any, options: PipelineOptions) -> Tuple[List[Any], PipelineOptions]:
        """
        Optional: called by ``Pipeline.start()``, on its thread.

        Returns:
            Objects with ``start()`` and ``stop()`` that live around the producers, and the options to use.
        """
        return [], options

    @classmethod
    def validate_options(cls, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """
        Optional: called by the constructor of ``Pipeline`` with the producer's options; returns those to use.

        Raises:
            ConfigurationError: An option is wrong.
        """
        return options


def to_messages(events: List[Any], transformer: Any) -> List[Message]:
    """
    Return the messages that a producer emitted.

    Raises:
        TypeError: Something is not a Message. What the transformer raises.
    """
    if transformer is not None:
        events = [transformer(event) for event in events]
    for message in events:
        if message.__class__ is not Message and not isinstance(message, Message):
            remedy = "its transformer returned" if transformer is not None else "without a transformer it emitted"
            raise TypeError(f"a producer must produce Message objects, {remedy}: {safe_repr(message)}")
    return events
