"""
Apache Kafka, with kafka-python: ``pip install "broadway_sync[kafka]"``.
"""

from .producer import KafkaProducer

__all__ = ["KafkaProducer"]
