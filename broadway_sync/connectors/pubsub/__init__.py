"""
Google Cloud Pub/Sub; needs ``pip install broadway_sync[pubsub]``.
"""

from .producer import PubSubProducer

__all__ = ["PubSubProducer"]
