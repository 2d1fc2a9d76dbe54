from django.test import TestCase, TransactionTestCase

from broadway_sync import DummyProducer
from broadway_sync.integrations.django.testing import PipelineTestMixin

from .models import Activity, Invoice, Order, OutboxRow
from .outbox import OutboxProducer
from .pipelines import activities, activity_buffer, invoices


class TestInvoices(PipelineTestMixin, TestCase):
    def setUp(self):
        self.pipeline = self.run_pipeline(invoices(producer=(DummyProducer, {})))

    def handle(self, amount):
        order = Order.objects.create(email="a@example.com", amount=amount)
        row = OutboxRow.objects.create(order=order)
        return self.pipeline.test_message(row).receive(timeout=10)

    def test_invoice_takes_the_place_of_the_row(self):
        successful, failed = self.handle(1200)
        self.assertEqual((len(successful), len(failed)), (1, 0))
        self.assertEqual([invoice.total for invoice in Invoice.objects.all()], [1200])
        self.assertFalse(OutboxRow.objects.exists())

    def test_row_of_what_cannot_be_invoiced_says_why(self):
        successful, failed = self.handle(0)
        self.assertEqual((len(successful), len(failed)), (0, 1))
        self.assertEqual(OutboxRow.objects.get().failure, "'nothing to pay'")


class TestOutbox(PipelineTestMixin, TransactionTestCase):
    def test_rows_of_the_table_become_invoices(self):
        for amount in (100, 200, 300):
            OutboxRow.objects.create(order=Order.objects.create(email="a@example.com", amount=amount))
        pipeline = self.run_pipeline(invoices(producer=(OutboxProducer, {"until_empty": True})))
        self.assertTrue(pipeline.join(timeout=10))
        self.assertEqual(sorted(invoice.total for invoice in Invoice.objects.all()), [100, 200, 300])
        self.assertFalse(OutboxRow.objects.exists())


class TestPlaceOrder(PipelineTestMixin, TestCase):
    def order(self, amount):
        with self.captureOnCommitCallbacks(execute=True):  # in a TestCase nothing is ever committed
            return self.client.post("/orders/", {"email": "a@example.com", "amount": amount})

    def test_order_is_noted(self):
        self.assertEqual(self.order(500).status_code, 201)
        self.run_pipeline(activities()).stop()  # a stop handles what is in the buffer
        self.assertEqual([activity.text for activity in Activity.objects.all()], ["placed"])

    def test_order_that_was_rolled_back_is_not(self):
        self.assertEqual(self.order(100_001).status_code, 402)
        self.assertEqual(len(activity_buffer), 0)
        self.assertFalse(Order.objects.exists())
