from django.db import models


class Order(models.Model):
    email = models.EmailField()
    amount = models.PositiveIntegerField()  # cents


class Activity(models.Model):
    order = models.ForeignKey(Order, on_delete=models.CASCADE)
    text = models.CharField(max_length=100)


class OutboxRow(models.Model):
    """
    Something to do once its order is committed: written in the same transaction, so that neither is there alone.
    """

    order = models.ForeignKey(Order, on_delete=models.CASCADE)
    taken_at = models.DateTimeField(null=True)
    failure = models.TextField(default="")


class Invoice(models.Model):
    order = models.OneToOneField(Order, on_delete=models.CASCADE)
    total = models.PositiveIntegerField()
