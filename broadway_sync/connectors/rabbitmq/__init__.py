"""
RabbitMQ: messages from a queue, through pika; ``pip install broadway_sync[rabbitmq]``.
"""

from __future__ import annotations

from .producer import RabbitMQProducer

__all__ = ["RabbitMQProducer"]
