"""
The producer for Google Cloud Pub/Sub.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Mapping

from ...errors import ConfigurationError
from ..common.options import build
from ..common.polling import PollingProducer
from ..common.polling_client import PollingClient
from .options import PubSubOptions


class PubSubProducer(PollingProducer):
    """
    Pulls the messages of a subscription, keeps their leases while they are in the pipeline, and acknowledges them.

    ``data`` is bytes (``b""`` for a message of attributes alone). ``metadata`` has ``attributes`` (dict of str),
    ``delivery_attempt`` (int, None without a dead letter policy), ``message_id``, ``ordering_key`` (``""`` for none)
    and ``publish_time`` (datetime, UTC). Needs the extra ``pubsub``.

    A subscription that is not there, missing rights, a service that does not answer: logged once, tried again after the
    back-off. ``configure_ack(on_success=..., on_failure=...)`` changes what becomes of one message.

    Follows broadway_cloud_pub_sub, ``producer.ex``, which extends no leases and keeps no order.
    """

    connector = "pubsub"
    options_class = PubSubOptions

    @classmethod
    def validate_options(cls, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """
        Check the options, and that the client library is there and takes those that are for it.
        """
        checked = build(cls.options_class, options)
        if checked.client is None and not _is_installed():
            raise ConfigurationError(
                "PubSubProducer needs google-cloud-pubsub, which is not installed: pip install 'broadway_sync[pubsub]'"
            )
        if checked.client is None and checked.client_options:
            from .client import check  # late, see make_client

            check(checked)
        return options

    def make_client(self, options: PubSubOptions) -> PollingClient:
        """
        Return the client of one session, not connected.
        """
        from .client import PubSubClient  # late: it imports the library, which takes a second

        return PubSubClient(options)


def _is_installed() -> bool:
    try:
        return find_spec("google.cloud.pubsub_v1") is not None
    except ImportError:  # not even a package google.cloud
        return False
