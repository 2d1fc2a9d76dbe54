"""
A connector of broadway_sync for messages in a folder.
"""

from .producer import SpoolProducer
from .spool import Spool

__all__ = ["SpoolProducer", "Spool"]
