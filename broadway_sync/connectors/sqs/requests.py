"""
What is asked of SQS: pure.
"""

from __future__ import annotations

import re
from typing import Any, Container, Dict, List, Optional

from .deliveries import ATTRIBUTES
from .options import SQSOptions

# https://sqs.eu-west-1.amazonaws.com/..., the older https://eu-west-1.queue.amazonaws.com/..., and inside a private
# network https://vpce-1a2b.sqs.eu-west-1.vpce.amazonaws.com/...
_OF_URL = re.compile(
    r"https?://(?:(?:[\w-]+\.)?sqs\.([a-z]+-[a-z-]+-\d+)\.|([a-z]+-[a-z-]+-\d+)\.queue\.)(?:vpce\.)?amazonaws\."
)


def region_of(queue_url: str) -> Optional[str]:
    """
    Return the region in the address of a queue, None if it is no address of AWS.
    """
    found = _OF_URL.match(queue_url)
    return found.group(1) or found.group(2) if found else None


def receive_request(options: SQSOptions, parameters: Container[str]) -> Dict[str, Any]:
    """
    Return the arguments of every receive, but for the number of messages.

    Args:
        parameters: Those that the client knows: the one for system attributes has two names.
    """
    name = "MessageSystemAttributeNames"
    request: Dict[str, Any] = {
        "QueueUrl": options.queue_url,
        name if name in parameters else "AttributeNames": _attribute_names(options.attribute_names, is_fifo(options)),
    }
    # Compared with None: 0 is a value, which must be sent.
    if options.wait_time_seconds is not None:
        request["WaitTimeSeconds"] = options.wait_time_seconds
    if options.visibility_timeout is not None:
        request["VisibilityTimeout"] = options.visibility_timeout
    if options.message_attribute_names is not None:
        names = options.message_attribute_names
        request["MessageAttributeNames"] = ["All"] if names == "all" else list(names)
    return request


def is_fifo(options: SQSOptions) -> bool:
    """
    Whether the queue keeps groups in order: the service demands that the names of such queues, and no others, end so.
    """
    return options.queue_url.endswith(".fifo")


def _attribute_names(wanted: Any, is_fifo: bool) -> List[str]:
    """
    Return the system attributes to ask for: always how often a message came, and its group where that means order.
    """
    if wanted == "all":
        return ["All"]
    names = ["approximate_receive_count", *(["message_group_id"] if is_fifo else []), *(wanted or ())]
    return [ATTRIBUTES[name] for name in dict.fromkeys(names)]
