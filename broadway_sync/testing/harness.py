"""
What the contract suite must know of a connector and its broker.
"""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Type

from ..message import Message
from ..producer import Producer


class ConnectorHarness:
    """
    Connects :class:`ConnectorContract` to one queue, topic or folder of a broker: one harness a test, on a fresh queue.

    Subclass it: three methods are required, the others give more tests something to do. Methods may be called from
    the test's thread only.
    """

    count: int = 100
    """How many messages most tests publish; at least 50."""

    timeout: float = 30.0
    """Seconds after which a test gives up waiting for something that must happen."""

    redelivery_timeout: float = 30.0
    """Seconds within which the broker delivers again what a consumer held that is gone without a word."""

    stop_timeout: float = 2.0
    """Seconds that the stop of an idle pipeline may take, in the middle of a long poll or of a reconnect too."""

    quiet: float = 0.5
    """Seconds during which a test watches that something does *not* happen."""

    redelivers_failed: bool = True
    """Whether a message that failed comes again, with the options that :meth:`producer` gives; else it is gone."""

    is_ordered: bool = False
    """Whether one producer and one processor handle messages in the order in which they were published."""

    lease: Optional[float] = None
    """
    Seconds after which the broker gives a message that is neither acknowledged nor extended to somebody else, or
    closes the connection over it; None if it never does. Configure a short one for the tests.
    """

    drop_options: Optional[Mapping[str, Any]] = None
    """Options of ``configure_ack`` with which a failed message is gone; None if there are none such."""

    linger: float = 0.0
    """Seconds that threads of the connector may outlive the stop, such as one in a long poll that nobody can end."""

    ignored_threads: Sequence[str] = ()
    """Beginnings of the names of threads that are none of the connector's: a client library's for the whole process."""

    loggers: Sequence[str] = ()
    """Loggers of the connector, if it does not log under ``broadway_sync``."""

    events: Sequence[Tuple[str, ...]] = ()
    """Telemetry events of the connector beyond those of the official ones."""

    secrets: Sequence[str] = ()
    """Credentials among the options of :meth:`producer` and :meth:`wrong_credentials`: they must never be shown."""

    refusal: str = ""
    """A regular expression for what the connector must say, in any case, about :meth:`wrong_credentials`."""

    def publish(self, data: List[str]) -> None:
        """
        Put one message into the queue for each of *data*; return once the broker has them.
        """
        raise NotImplementedError

    def producer(self) -> Tuple[Type[Producer], Dict[str, Any]]:
        """
        Return what a pipeline's ``producer={"module": ...}`` gets: the producer's class, and options for this queue.
        """
        raise NotImplementedError

    def remaining(self) -> int:
        """
        Return how many messages the broker still has in the queue: waiting, or delivered and not acknowledged.
        """
        raise NotImplementedError

    def text(self, message: Message) -> str:
        """
        Return what :meth:`publish` was given, from a message that the connector delivered.
        """
        return message.data.decode("utf-8") if isinstance(message.data, bytes) else str(message.data)

    def acknowledgements(self) -> int:
        """
        Optional: return how many messages the broker was told to be done with, counting those it did not know.
        """
        raise NotImplementedError

    def cut(self) -> None:
        """
        Optional: cut the connections of the connector; new ones succeed.
        """
        raise NotImplementedError

    def take_down(self) -> None:
        """
        Optional: cut the connections, and refuse new ones until :meth:`bring_up`. Messages are kept.
        """
        raise NotImplementedError

    def bring_up(self) -> None:
        """
        Optional, together with :meth:`take_down`: accept connections again, if they were refused.
        """
        raise NotImplementedError

    def stall(self) -> None:
        """
        Optional: let the broker hang, as seen by the connector: connections stay open, and nothing passes.
        """
        raise NotImplementedError

    def resume(self) -> None:
        """
        Optional, together with :meth:`stall`: let everything pass, if it did not.
        """
        raise NotImplementedError

    def wrong_credentials(self) -> Tuple[Type[Producer], Dict[str, Any]]:
        """
        Optional: return what :meth:`producer` does, with credentials that the broker refuses.
        """
        raise NotImplementedError


def offers(harness: ConnectorHarness, method: str) -> bool:
    """
    Whether *harness* defines an optional method.
    """
    return getattr(type(harness), method) is not getattr(ConnectorHarness, method)
