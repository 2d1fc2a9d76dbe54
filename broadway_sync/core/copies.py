"""
Messages that were delivered again while an earlier copy of them is still in hand.

A source that leases its messages does so when a lease was lost. From then on only the newest handle is good for
anything: with an older one an acknowledgement may be refused, or, worse, accepted and forgotten (SQS). So whichever
copy is finished, the source is told by the newest handle, and only once that the message is gone.
"""

from __future__ import annotations

from typing import Dict, List, Optional


class Copies:
    """
    The newest handle of each message in hand. Not thread-safe.
    """

    def __init__(self) -> None:
        self._newest: Dict[str, List[str]] = {}  # identity -> its handles, one for each copy in hand, newest last
        self._gone: Dict[str, None] = {}  # those of them that were acknowledged by one of their copies

    def __len__(self) -> int:
        return len(self._newest)

    def add(self, identity: str, handle: str) -> Optional[str]:
        """
        A copy came; return the handle that is good for nothing any more, if there was an older copy.

        If one was acknowledged already, that was with the older handle, and may have been in vain.
        """
        handles = self._newest.setdefault(identity, [])
        older = handles[-1] if handles and handles[-1] != handle else None
        handles.append(handle)
        if older is not None:
            self._gone.pop(identity, None)
        return older

    def is_gone(self, identity: str) -> bool:
        """
        Whether the message was acknowledged by a copy that is done with, so that those in hand are of no use.
        """
        return identity in self._gone

    def finish(self, identity: str, is_gone: bool) -> Optional[str]:
        """
        A copy is done with; return the handle by which to tell the source, None if there is nothing to tell.

        There is not when another copy was acknowledged, nor while another one is in hand whose outcome may be better;
        nor for a copy that was done with before, as when somebody has made two messages of one.

        Args:
            is_gone: Whether this copy is acknowledged, so that the message must not come again.
        """
        handles = self._newest.get(identity)
        if handles is None:
            return None
        newest = handles[-1]
        was_gone = identity in self._gone
        if len(handles) == 1:
            del self._newest[identity]
            self._gone.pop(identity, None)
            return None if was_gone else newest
        del handles[0]  # which one does not matter: the last one stays
        if was_gone or not is_gone:
            return None
        self._gone[identity] = None
        return newest
