"""
A cache backend that tells how it is used.
"""

from __future__ import annotations

import threading
from typing import Any

from django.core.cache.backends.locmem import LocMemCache
from django.core.exceptions import ImproperlyConfigured

made: list[RecordingCache] = []


class RecordingCache(LocMemCache):
    """
    Knows which thread made it, and whether it was closed.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.thread = threading.current_thread().name
        self.is_closed = False
        made.append(self)

    def close(self, **kwargs: Any) -> None:
        """
        Record it.
        """
        self.is_closed = True


class MisconfiguredCache(LocMemCache):
    """
    Cannot be made.
    """

    def __init__(self, name: str, params: Any) -> None:
        raise ImproperlyConfigured("no address")
