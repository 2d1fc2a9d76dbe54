import logging
from datetime import timedelta

from django.db import InterfaceError, OperationalError, transaction
from django.db.models import Q
from django.utils import timezone

from broadway_sync import EndOfStream, Message, NoopAcknowledger, Producer

from .models import OutboxRow

logger = logging.getLogger(__name__)

# What a process has taken and not finished in this time is taken again: the process has died.
LEASE = timedelta(minutes=10)


class OutboxProducer(Producer):
    """
    Takes rows of the outbox, the oldest first. Several processes may do so: each row goes to one of them.
    """

    poll_interval = 1.0  # seconds until the table is asked again when it had too little

    def __init__(self, until_empty=False):
        self.until_empty = until_empty

    def handle_demand(self, demand):
        try:
            rows = self.take(demand)
        except (OperationalError, InterfaceError):  # no reason to give up: it is asked again in a second
            logger.warning("the database is away", exc_info=True)
            return []
        if self.until_empty and not rows:
            raise EndOfStream
        # Nothing is left to acknowledge: handle_batch deletes a row together with what was made of it.
        return [Message(row, NoopAcknowledger.init()) for row in rows]

    def take(self, count):
        now = timezone.now()
        is_free = Q(taken_at=None) | Q(taken_at__lt=now - LEASE)
        with transaction.atomic():
            free = OutboxRow.objects.select_for_update(skip_locked=True, of=("self",)).select_related("order")
            rows = list(free.filter(is_free, failure="").order_by("pk")[:count])
            OutboxRow.objects.filter(pk__in=[row.pk for row in rows]).update(taken_at=now)
        return rows
