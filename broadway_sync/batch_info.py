"""
What a batch processor is told about the batch in its hands.
"""

from __future__ import annotations

from typing import Hashable, Optional

import attrs


@attrs.frozen
class BatchInfo:
    """
    The second-last argument of ``handle_batch``.

    Follows Broadway 1.3, ``batch_info.ex``.
    """

    batcher: str
    """Key of the batcher."""

    batch_key: Hashable
    """The key that all messages of the batch share; ``"default"`` unless one was put."""

    partition: Optional[int]
    """Remainder of ``partition_by`` by the batcher's concurrency; None without ``partition_by``."""

    size: int
    """Number of messages in the batch, at least 1."""

    trigger: str
    """What cut the batch: ``"size"``, ``"timeout"`` or ``"flush"``."""
