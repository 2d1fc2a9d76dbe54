"""
Amazon SQS, and whatever speaks its protocol.
"""

from __future__ import annotations

from .producer import SQSProducer

__all__ = ["SQSProducer"]
