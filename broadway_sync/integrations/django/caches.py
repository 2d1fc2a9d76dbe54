"""
Cache backends of stage threads.

Django keeps them in a context variable, and each callback has a context of its own, so that without this each would
connect to the cache anew.
"""

from __future__ import annotations

import threading
from typing import Any, Dict

from django.core.cache import caches


class ThreadCaches(threading.local):
    """
    The cache backends of one thread.
    """

    def __init__(self) -> None:
        self._backends: Dict[str, Any] = {}

    def provide(self) -> None:
        """
        Let the callback find what the last one has left. Backends connect when they are used, not here.
        """
        for alias in caches:
            if alias not in self._backends:
                try:
                    self._backends[alias] = caches.create_connection(alias)
                except Exception:  # a library that is missing, a setting that is wrong
                    continue  # who uses it gets the error
            caches[alias] = self._backends[alias]

    def close(self) -> None:
        """
        Close what was provided.
        """
        backends, self._backends = self._backends, {}
        for backend in backends.values():
            backend.close()
