from django.db import OperationalError, transaction

from broadway_sync import Buffer, BufferProducer, Pipeline

from .models import Activity, Invoice, OutboxRow
from .outbox import OutboxProducer


# [activities]
class StoreActivities:
    def handle_message(self, processor, message, context):
        return message

    def handle_batch(self, batcher, messages, batch_info, context):
        Activity.objects.bulk_create([Activity(**message.data) for message in messages])
        return messages


activity_buffer = Buffer(maxsize=1000)


def activities():
    return Pipeline(
        StoreActivities(),
        name="activities",
        producer={"module": (BufferProducer, {"buffer": activity_buffer})},
        processors={"default": {"concurrency": 1}},
        batchers={"default": {"batch_size": 100, "batch_timeout": 2.0}},
    )


# [end of activities]


class MakeInvoices:
    def handle_message(self, processor, message, context):
        if message.data.order.amount == 0:
            return message.fail("nothing to pay")
        return message

    def handle_batch(self, batcher, messages, batch_info, context):
        rows = [message.data for message in messages]
        with transaction.atomic():  # both or neither: what raises fails the batch, and rolls back
            invoices = [Invoice(order=row.order, total=row.order.amount) for row in rows]
            Invoice.objects.bulk_create(invoices, ignore_conflicts=True)  # a row that comes twice makes one invoice
            OutboxRow.objects.filter(pk__in=[row.pk for row in rows]).delete()
        return messages

    def handle_failed(self, messages, context):
        for message in messages:
            row = OutboxRow.objects.filter(pk=message.data.pk)
            if isinstance(message.reason, OperationalError):  # the database was away: once more
                row.update(taken_at=None)
            else:
                row.update(failure=repr(message.reason))
        return messages


def invoices(producer=(OutboxProducer, {})):
    return Pipeline(
        MakeInvoices(),
        name="invoices",
        producer={"module": producer},
        processors={"default": {"concurrency": 2, "max_demand": 100}},
        batchers={"default": {"batch_size": 100, "batch_timeout": 1.0}},
    )
