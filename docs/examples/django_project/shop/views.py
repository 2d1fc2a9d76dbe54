import logging

from django.db import transaction
from django.http import JsonResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from broadway_sync import NotRunningError

from .models import Order, OutboxRow
from .pipelines import activity_buffer

logger = logging.getLogger(__name__)


class PaymentRefusedError(Exception):
    pass


def charge(order):
    if order.amount > 100_000:
        raise PaymentRefusedError


def note(order, text):
    try:
        activity_buffer.push({"order_id": order.pk, "text": text}, timeout=0.5)
    except (TimeoutError, NotRunningError):  # the buffer is full, or the worker ends; the order stands all the same
        logger.warning("not noted: order %s %s", order.pk, text)


@csrf_exempt
@require_POST
def place_order(request):
    try:
        with transaction.atomic():
            order = Order.objects.create(email=request.POST["email"], amount=int(request.POST["amount"]))
            OutboxRow.objects.create(order=order)
            transaction.on_commit(lambda: note(order, "placed"))
            charge(order)
    except PaymentRefusedError:
        return JsonResponse({"error": "payment refused"}, status=402)
    return JsonResponse({"order": order.pk}, status=201)
