"""
A client for probes.
"""

from __future__ import annotations

import http.client
import json
from typing import Any, NamedTuple, Optional

from tests.helpers import BOUND


class Answer(NamedTuple):
    """
    What a probe is told.
    """

    status: int
    text: str
    headers: Any

    @property
    def json(self) -> Any:
        """
        The body as JSON.
        """
        return json.loads(self.text)


def ask(port: Optional[int], path: str, method: str = "GET", host: str = "127.0.0.1") -> Answer:
    """
    Send one request.
    """
    assert port is not None
    connection = http.client.HTTPConnection(host, port, timeout=BOUND)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return Answer(response.status, response.read().decode("utf-8"), response.headers)
    finally:
        connection.close()
