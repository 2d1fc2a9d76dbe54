"""
Every event of connectors.

The spans have the shape of the pipeline's own: ``start``, then ``stop`` or ``exception``, with the same measurements
(see ``telemetry/events.py``). The metadata of every event has ``connector`` (``"rabbitmq"``, ``"kafka"``, ``"sqs"``,
``"pubsub"``), ``topology_name``, and ``name`` and ``index`` of the producer.
"""

from __future__ import annotations

from typing import Dict, Tuple

CONNECT = ("broadway", "connect")
RECEIVE = ("broadway", "receive")
ACKNOWLEDGE = ("broadway", "acknowledge")
ASSIGNMENTS_REVOKED = ("broadway", "assignments_revoked")
CONNECTION_UP = ("broadway", "connection", "up")
CONNECTION_DOWN = ("broadway", "connection", "down")
LEASE_LOST = ("broadway", "lease", "lost")
CONSUMER_LAG = ("broadway", "consumer_lag")

METADATA: Dict[Tuple[str, ...], str] = {
    CONNECT + ("start",): "one attempt to connect",
    CONNECT + ("stop",): "it succeeded",
    CONNECT + ("exception",): "it failed; the next one follows after the back-off",
    RECEIVE
    + ("start",): "demand; a request for messages (connectors to which messages are pushed: a lot that arrived)",
    RECEIVE + ("stop",): "demand, count: how many messages came",
    RECEIVE + ("exception",): "the request failed; the next one follows after the back-off",
    ACKNOWLEDGE + ("start",): 'action ("ack", "nack", "reject", "extend", "commit", ...), count: how many messages',
    ACKNOWLEDGE + ("stop",): "action, count, failed: how many of them the broker refused",
    ACKNOWLEDGE + ("exception",): "none was accepted; retried where that is safe, the log says so where it is not",
    ASSIGNMENTS_REVOKED + ("start",): "partitions: list of (topic, partition) that move to other members of the group",
    ASSIGNMENTS_REVOKED
    + ("stop",): "partitions, unfinished: how many messages in the pipeline will be delivered again",
    ASSIGNMENTS_REVOKED + ("exception",): "committing what was finished failed",
    CONNECTION_UP: "the broker answers again, or for the first time; measurement system_time",
    CONNECTION_DOWN: "reason: the exception; once per change of state; measurement system_time",
    LEASE_LOST: "reason; messages that were not acknowledged in time and will come again; measurement count",
    CONSUMER_LAG: "topic, partition; measurement lag: messages in the partition that are not finished yet",
}
"""Event -> its metadata."""
