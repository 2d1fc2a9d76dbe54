import pytest

from broadway_sync import DummyProducer, Pipeline


class Orders:
    def handle_message(self, processor, message, context):
        return message.update_data(int)

    def handle_batch(self, batcher, messages, batch_info, context):
        context.append([message.data for message in messages])
        return messages


@pytest.fixture
def stored():
    return []


@pytest.fixture
def pipeline(stored):
    with Pipeline(
        Orders(),
        name="orders-under-test",
        context=stored,
        producer={"module": (DummyProducer, {})},
        processors={"default": {"concurrency": 1}},
        batchers={"default": {"batch_size": 3, "batch_timeout": 60.0}},
    ) as pipeline:
        yield pipeline


def test_order_is_stored(pipeline, stored):
    successful, failed = pipeline.test_message("17").receive(timeout=10)
    assert [message.data for message in successful] == [17]
    assert failed == []
    assert stored == [[17]]


def test_order_that_is_no_number_fails(pipeline, stored):
    successful, failed = pipeline.test_message("a lamp").receive(timeout=10)
    assert successful == []
    assert [message.data for message in failed] == ["a lamp"]
    assert isinstance(failed[0].reason, ValueError)
    assert stored == []


def test_orders_are_stored_three_at_a_time(pipeline, stored):
    successful, _ = pipeline.test_batch(["1", "2", "3", "4", "5", "6"]).collect(6, timeout=10)
    assert len(successful) == 6
    assert stored == [[1, 2, 3], [4, 5, 6]]
