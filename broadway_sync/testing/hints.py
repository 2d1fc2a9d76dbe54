"""
Where the author of a connector should look when a test of the contract fails.
"""

from __future__ import annotations

RECEIVING = (
    "handle_demand(): everything that the client received must be returned, kept or handed back; "
    "and what wakes the producer when messages come: poll_interval, or stage.wake()"
)
ACKNOWLEDGING = (
    "the acknowledger's ack(): the successful messages must reach the broker, each with its own handle, "
    "while the pipeline runs and not first at its stop"
)
ACKNOWLEDGING_LAST = (
    "terminate(): acknowledgements on their way must be sent before the connection is closed; or " + ACKNOWLEDGING
)
ACKNOWLEDGING_BATCHES = ACKNOWLEDGING + "; it runs on the threads of batch processors too, several at a time"
ONCE = (
    "what is sent to the broker for each message (twice? to the wrong one?), what retries it, the lease, "
    "and reconnects that nothing asked for"
)
NEGATIVE = (
    "the acknowledger's ack(): failed messages must be treated by on_failure and by the message's own ack options, "
    "and the successful ones beside them acknowledged all the same"
)
CONFIGURING = (
    "the acknowledger's configure(), which must refuse by name what it does not know, keep what it is not given and "
    "return the new ack_data; and ack(), which must use that"
)
SHARED_STATE = (
    "state that producers share: class attributes, module globals, a client made before init(), "
    "an acknowledgement that goes to the other producer's connection"
)
SHARED_QUEUE = "state that pipelines share; and what the stop of one consumer does to those that it leaves behind"
LEASES = (
    "what extends leases (or answers heartbeats): it must count from receipt, know the messages that wait in the "
    "pipeline as well, and never depend on a thread that runs handlers"
)
PREFETCHING = "prefetching without bound, or a harness.count that is too small"
HANDING_BACK = (
    "prepare_for_draining(): stop the deliveries, then hand back (nack, requeue, visibility 0) what was received and "
    "is not in the pipeline yet; what the pipeline has is handled and acknowledged before terminate() is called"
)
ARRIVING_LATE = "messages that arrive while the stop begins; " + HANDING_BACK
COVERING = (
    "acknowledgements that cover more than their own message (multiple=True, the offset of the last message): only the "
    "contiguous finished prefix may be acknowledged that way; and terminate(), which must acknowledge nothing"
)
LONG_POLLS = (
    "long polls on the producer's own thread, or a terminate() that waits for one: give them a thread of theirs"
)
STUCK_STOP = "prepare_for_draining() and terminate(), which must not block, and a handle_demand() that blocks"
STARTING_AGAIN = (
    "what is made in the class or in validate_options() instead of init(), and what terminate() leaves closed"
)
ENDING_THREADS = (
    "terminate(): it must end every thread that init() started (those in ignored_threads of the harness do not count)"
)
CLOSING = "terminate(): close the client, also when it was never connected"
OPENING_EARLY = "validate_options() and the module itself: connect in init(), which runs after start()"
CRASHING = (
    "terminate() after a crash: hand back what is not in the pipeline, release the connection; acknowledgements of "
    "messages from before must be sent, or dropped if their connection is gone, never sent on another one"
)
RECONNECTING = (
    "the reconnect: everything that init() set up must be set up again (subscription, prefetch, callbacks), the "
    "back-off reset, and acknowledgements for the lost connection dropped: not raised, and not sent on the new one"
)
HANGING = (
    "timeouts of requests: one that was not answered may have been accepted or not, and must be made again until the "
    "lease is over; an acknowledgement that is given up must be logged, and its message delivered again"
)
NOT_IN_FLIGHT = "duplicates of what was not in flight when the connection was cut; " + RECONNECTING
CONNECTING = (
    "init(): errors of connecting must be caught there, retried with back-off, and logged once, not at each attempt"
)
STOPPING_OFFLINE = (
    "stage.wait() in place of a sleep between attempts, timeouts of connecting, and terminate() without a broker"
)
REFUSED = (
    "what the client raises for refused credentials: log once that it is about them, and back off (or crash with "
    "ConnectorError)"
)
SHOWING = "what is put into log records, errors and telemetry: whole URLs, connection parameters, repr of a client"
VALIDATING = "validate_options() of the producer: it must raise ConfigurationError for anything that it does not know"
FRESH_QUEUE = "the harness: each test needs a queue of its own, and text() must return what publish() was given"
ORDERING = "the queue between the client and handle_demand(), and several requests that are under way at once"
POLLING = "poll_interval and stage.wake()"
HARNESS = "the harness"
