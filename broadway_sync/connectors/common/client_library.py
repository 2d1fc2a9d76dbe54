"""
What has to happen before a client library is imported.
"""

from __future__ import annotations


def import_codec_of_host_names() -> None:
    """
    Import what Python would import when a host is first looked up, on some thread.

    The child of a process that forks at that very moment would wait for the import lock for ever. Connectors call this
    where they load their client, which is before a pipeline has any thread.
    """
    import encodings.idna  # noqa: F401
