"""
``topology/dispatcher.py``: channels, sources and their demand.
"""

from __future__ import annotations

import queue
import threading
from typing import Any, Deque, List, Optional, Tuple

import pytest

from broadway_sync import InvalidReturnError, NotRunningError
from broadway_sync.options import ProcessorOptions
from broadway_sync.topology import dispatcher as module
from broadway_sync.topology.dispatcher import Channel, Dispatcher
from broadway_sync.topology.processor_stage import ProcessorStage

from ..helpers import BOUND, Call, RecordingAcknowledger, eventually, get, get_many
from .support import data, make_settings, messages


def make_dispatcher(producers: int = 1, partition_by: Any = None, **options: Any) -> Dispatcher:
    """
    Return a dispatcher for two processors, chunks of two, and no rate limit.
    """
    options = {"concurrency": 2, "max_demand": 4, "min_demand": 2, **options}
    return Dispatcher(ProcessorOptions(partition_by=partition_by, **options), producers, None, "a pipeline")


def take_all(channel: Channel) -> List[Any]:
    """
    Take what is in a channel, without waiting, as lists of data.
    """
    chunks = []
    while channel.ready:
        chunk = channel.take()
        assert chunk is not None
        chunks.append(data(chunk[1]))
    return chunks


class TestChannel:
    """
    Chunks that wait for a processor.
    """

    def test_chunks_leave_in_their_order(self) -> None:
        """
        And take() returns None when the channel is closed and empty, not before.
        """
        channel: Any = Channel(5, lambda: None)
        channel.put(["a", "b"])
        channel.put(["c"])
        channel.close()
        assert [channel.take() for _ in range(5)] == ["a", "b", "c", None, None]

    def test_a_processor_that_finds_nothing_says_so_before_it_waits(self) -> None:
        """
        Each time; who finds something says nothing.
        """
        said: queue.Queue[str] = queue.Queue()
        channel: Any = Channel(5, lambda: said.put("idle"))
        channel.put(["a"])
        assert channel.take() == "a"
        assert said.empty()
        call = Call(channel.take)
        get(said)
        channel.put(["b"])
        assert call.result() == "b"

    def test_close_ends_all_that_wait(self) -> None:
        """
        Every processor learns of the end.
        """
        channel = Channel(5, lambda: None)
        calls = [Call(channel.take) for _ in range(3)]
        eventually(lambda: len(channel.idle.parked) == 3, "all processors wait")
        channel.close()
        assert [call.result() for call in calls] == [None] * 3

    def test_one_put_of_many_chunks_wakes_as_many_processors(self) -> None:
        """
        Each that is woken wakes the next one as long as there is something: all of them are at work at a time.
        """
        channel: Any = Channel(5, lambda: None)
        together = threading.Barrier(3, timeout=BOUND)

        def work() -> Any:
            chunk = channel.take()
            together.wait()
            return chunk

        calls = [Call(work) for _ in range(3)]
        eventually(lambda: len(channel.idle.parked) == 3, "all processors wait")
        channel.put(["a", "b", "c"])
        assert sorted(call.result() for call in calls) == ["a", "b", "c"]

    @pytest.mark.parametrize("takers", [1, 2, 5])
    def test_no_chunk_is_lost_or_taken_twice(self, takers: int) -> None:
        """
        Whoever puts and takes at whatever moment.
        """
        channel: Any = Channel(5, lambda: None)

        def take() -> List[Any]:
            taken = []
            while True:
                chunk = channel.take()
                if chunk is None:
                    return taken
                taken.append(chunk)

        def put(first: int) -> None:
            for number in range(first, first + 3000, 3):
                channel.put(range(number, number + 3))

        taking = [Call(take) for _ in range(takers)]
        for call in [Call(put, 0), Call(put, 3000)]:
            call.result()
        channel.close()
        assert sorted(chunk for call in taking for chunk in call.result()) == list(range(6000))


class TestSentinel:
    """
    A processor that was often woken in vain looks by itself now and then, and nobody is woken any more.
    """

    @pytest.fixture(autouse=True)
    def lazy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Once in vain is often enough here.
        """
        monkeypatch.setattr(module, "IN_VAIN", 1)

    def make(self) -> Tuple[Channel, queue.Queue[str], Call]:
        """
        Return a channel of two processors with a sentinel, while the other processor is at work.
        """
        said: queue.Queue[str] = queue.Queue()
        channel = Channel(2, lambda: said.put("idle"))
        call = Call(channel.take)
        get(said)
        eventually(lambda: channel.idle.parked, "the processor waits")
        channel.idle.wake()
        eventually(lambda: channel.has_sentinel, "it has become the sentinel")
        return channel, said, call

    def test_it_finds_what_nobody_told_it_of(self) -> None:
        """
        A chunk that waits because the other processor is slow.
        """
        channel, _, call = self.make()
        chunk: Any = ("source", [], False)
        channel.ready.append(chunk)
        assert call.result() == chunk
        assert not channel.has_sentinel

    def test_it_goes_on_asking_for_what_may_be_asked_for(self) -> None:
        """
        The other processor is slow, there is nothing to take, and credit has come back meanwhile.
        """
        channel, said, call = self.make()
        assert get_many(said, 3) == ["idle"] * 3
        channel.close()
        assert call.result() is None

    def test_many_slow_processors_are_not_taken_for_a_quick_one(self) -> None:
        """
        A hundred of them who wait 5 ms each take 40 chunks in 2 ms; so does one who waits for nothing.
        """
        channel = Channel(101, lambda: None)
        assert channel._are_slow(0.002, 40)
        channel.idle.parked.extend(threading.Lock() for _ in range(99))
        assert not channel._are_slow(0.002, 40)

    def test_it_resigns_when_all_processors_are_idle(self) -> None:
        """
        An idle pipeline does not tick; from then on who puts a chunk wakes somebody.
        """
        channel, _, call = self.make()
        other = Call(channel.take)
        eventually(lambda: not channel.has_sentinel and len(channel.idle.parked) == 2, "both wait")
        chunks: Any = [("source", [], False), ("source", [], True)]
        channel.put(chunks)
        assert sorted([call.result(), other.result()]) == chunks

    def test_it_learns_of_the_end(self) -> None:
        """
        At once.
        """
        channel, _, call = self.make()
        channel.close()
        assert call.result() is None


class TestDemand:
    """
    The credit of a source.
    """

    def test_what_is_handed_over_counts_until_it_is_handled(self, acks: RecordingAcknowledger) -> None:
        """
        Demand is processors x max_demand for each producer.
        """
        first, second = make_dispatcher(2).sources
        assert (first.unmet_demand(), second.unmet_demand()) == (8, 8)
        first.offer(messages(acks, 3))
        assert (first.unmet_demand(), first.outstanding(), second.unmet_demand()) == (5, 3, 8)
        first.returned.append(2)
        assert (first.unmet_demand(), first.outstanding()) == (7, 1)

    def test_more_than_was_asked_for_is_kept(self, acks: RecordingAcknowledger) -> None:
        """
        Nothing is asked for until it is handled.
        """
        dispatcher = make_dispatcher()
        (source,) = dispatcher.sources
        source.offer(messages(acks, 11))
        assert (source.unmet_demand(), source.outstanding()) == (0, 11)
        assert sum(map(len, take_all(dispatcher.channels[0]))) == 11

    def test_an_offer_without_room_changes_nothing(self, acks: RecordingAcknowledger) -> None:
        """
        Who decides gets the number of outstanding messages.
        """
        dispatcher = make_dispatcher()
        (source,) = dispatcher.sources
        source.offer(messages(acks, 3))
        asked = []
        placed = source.place(messages(acks, 1))
        assert source.take(placed, has_room=lambda outstanding: bool(asked.append(outstanding))) is False
        assert asked == [3]
        assert (source.outstanding(), take_all(dispatcher.channels[0])) == (3, [[0, 1], [2]])
        assert source.take(source.place(messages(acks, 1)), has_room=lambda outstanding: True) is True

    def test_a_closed_source_takes_nothing(self, acks: RecordingAcknowledger) -> None:
        """
        And says so.
        """
        dispatcher = make_dispatcher(2)
        dispatcher.sources[0].close()
        with pytest.raises(NotRunningError):
            dispatcher.sources[0].offer(messages(acks, 1))
        assert (dispatcher.sources[0].outstanding(), len(dispatcher.channels[0].ready)) == (0, 0)

    def test_a_processor_that_becomes_idle_asks_for_all_that_may_be_asked_for(self) -> None:
        """
        Credit that came back in lots too small to wake a producer does not stay unknown: other producers' chunks kept
        the channel busy, emit() had counted the credit, and nobody else would tell.
        """
        acks = RecordingAcknowledger()
        dispatcher = make_dispatcher(2, concurrency=4, max_demand=1, min_demand=0)
        processors = dispatcher.processors = make_processors(dispatcher, 4)
        mine, other = dispatcher.sources
        mine.offer(messages(acks, 4))
        other.offer(messages(acks, 4))
        producer = Call(mine.producer.wait_for, mine.unmet_demand)
        eventually(lambda: mine.producer.parked, "the producer waits")
        step(processors[0], dispatcher, 3)
        mine.take(mine.place(messages(acks, 1)), has_room=lambda outstanding: True)  # an emit: it counts the credit
        step(processors[0], dispatcher, 5)
        other.offer(messages(acks, 4))  # the other producer keeps the channel busy
        step(processors[0], dispatcher, 5)
        assert (mine.outstanding(), len(dispatcher.channels[0].ready)) == (0, 0)
        idle = Call(dispatcher.channels[0].take)
        assert producer.result() is True
        dispatcher.close()
        assert idle.result() is None


def make_processors(dispatcher: Dispatcher, count: int) -> List[ProcessorStage]:
    """
    Return processors whose steps the test runs.
    """
    settings = make_settings()
    return [ProcessorStage(n, f"p{n}", settings, dispatcher.channel_of(n), {}) for n in range(count)]


def step(processor: ProcessorStage, dispatcher: Dispatcher, count: int) -> None:
    """
    Let a processor handle *count* chunks, on this thread.
    """
    for _ in range(count):
        chunk = dispatcher.channels[0].take()
        assert chunk is not None
        processor.chunk = chunk
        processor._step(chunk[1])
        processor._put_down(chunk, len(chunk[1]))


class TestPlaces:
    """
    Which channel a message goes to.
    """

    def test_without_partitions_all_processors_share_a_channel(self, acks: RecordingAcknowledger) -> None:
        """
        In chunks of max_demand - min_demand.
        """
        dispatcher = make_dispatcher()
        assert dispatcher.channel_of(0) is dispatcher.channel_of(1) is dispatcher.channels[0]
        dispatcher.sources[0].offer(messages(acks, 5))
        assert take_all(dispatcher.channels[0]) == [[0, 1], [2, 3], [4]]

    def test_with_partitions_each_processor_has_its_own(self, acks: RecordingAcknowledger) -> None:
        """
        In order.
        """
        dispatcher = make_dispatcher(partition_by=lambda message: message.data)
        assert dispatcher.channel_of(0) is not dispatcher.channel_of(1)
        dispatcher.sources[0].offer(messages(acks, 7))
        assert [take_all(channel) for channel in dispatcher.channels] == [[[0, 2], [4, 6]], [[1, 3], [5]]]

    def test_messages_without_a_partition_come_as_failed(self, acks: RecordingAcknowledger) -> None:
        """
        They only have to be settled; they count as the others do.
        """
        dispatcher = make_dispatcher(partition_by=lambda message: -message.data)
        (source,) = dispatcher.sources
        source.offer(messages(acks, 2))
        first, second = dispatcher.channels[0].take(), dispatcher.channels[0].take()
        assert first is not None
        assert second is not None
        assert [(data(chunk[1]), chunk[2]) for chunk in (first, second)] == [([0], False), ([1], True)]
        (message,) = second[1]
        assert (message.status, type(message.reason)) == ("error", InvalidReturnError)
        assert source.outstanding() == 2

    def test_nothing_is_no_chunk(self) -> None:
        """
        An empty list is taken and wakes nobody.
        """
        dispatcher = make_dispatcher(partition_by=lambda message: 0)
        dispatcher.sources[0].offer([])
        assert not any(channel.ready for channel in dispatcher.channels)


class TestEnd:
    """
    How the channels end.
    """

    def test_the_last_source_closes_the_channels(self) -> None:
        """
        Closing one twice does not count twice.
        """
        dispatcher = make_dispatcher(2, partition_by=lambda message: 0)
        dispatcher.sources[0].close()
        dispatcher.sources[0].close()
        assert [channel.is_closed for channel in dispatcher.channels] == [False, False]
        dispatcher.sources[1].close()
        assert [channel.is_closed for channel in dispatcher.channels] == [True, True]

    def test_pushes_go_to_any_source_that_is_open(self, acks: RecordingAcknowledger) -> None:
        """
        And nowhere once all are closed.
        """
        dispatcher = make_dispatcher(3)
        dispatcher.sources[0].close()
        dispatcher.sources[2].close()
        dispatcher.push(messages(acks, 2))
        assert [source.outstanding() for source in dispatcher.sources] == [0, 2, 0]
        dispatcher.sources[1].close()
        with pytest.raises(NotRunningError):
            dispatcher.push(messages(acks, 1))
        assert take_all(dispatcher.channels[0]) == [[0, 1]]

    def test_a_push_tries_the_next_source_when_one_closes_at_that_moment(
        self, acks: RecordingAcknowledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        It was open when the push looked.
        """
        dispatcher = make_dispatcher(2)
        tried: List[Optional[str]] = []

        def closes(members: Any, **_: Any) -> None:
            tried.append("closed")
            raise NotRunningError("closed meanwhile")

        monkeypatch.setattr("random.shuffle", lambda sources: sources.sort(key=dispatcher.sources.index))
        dispatcher.sources[0].offer = closes  # type: ignore[method-assign,assignment]
        dispatcher.push(messages(acks, 1))
        assert (tried, dispatcher.sources[1].outstanding()) == (["closed"], 1)

    def test_remove_all_takes_what_nobody_has_taken(self, acks: RecordingAcknowledger) -> None:
        """
        In order; the channels are empty after it.
        """
        dispatcher = make_dispatcher()
        dispatcher.sources[0].offer(messages(acks, 5))
        assert dispatcher.has_messages()
        dispatcher.channels[0].take()
        ready, held = dispatcher.remove_all()
        assert (data(ready), held, dispatcher.has_messages()) == ([2, 3, 4], [], False)

    def test_remove_all_leaves_to_a_processor_what_it_was_faster_to_take(self, acks: RecordingAcknowledger) -> None:
        """
        Between the look and the hand there is time for a thread.
        """

        class Raced(Deque[Any]):
            """
            A deque whose last chunk is taken by somebody else.
            """

            def popleft(self) -> Any:
                chunk = super().popleft()
                if not self:
                    raise IndexError("a processor was faster")
                return chunk

        dispatcher = make_dispatcher()
        dispatcher.sources[0].offer(messages(acks, 5))
        channel = dispatcher.channels[0]
        channel.ready = Raced(channel.ready)
        assert data(dispatcher.remove_all()[0]) == [0, 1, 2, 3]
