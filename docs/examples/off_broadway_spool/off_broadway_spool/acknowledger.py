"""
What becomes of messages, and the leases of those that nothing has become of yet.
"""

import logging
import threading

from broadway_sync import Acknowledger, ConfigurationError

logger = logging.getLogger("off_broadway_spool")
ON_FAILURE = ("retry", "reject")


def check_on_failure(value):
    if value not in ON_FAILURE:
        raise ConfigurationError(f"on_failure: expected one of {', '.join(ON_FAILURE)}, got: {value!r}")
    return value


class SpoolAcknowledger(Acknowledger):
    """
    The ack_data of a message is ``(taken, on_failure)``. One for each producer, with a thread that keeps the leases.
    """

    def __init__(self, spool, max_attempts, stage):
        self.spool = spool
        self.max_attempts = max_attempts
        self.name = stage.name
        self.in_hand = set()  # names of taken messages; single operations on a set are atomic
        self.closed = threading.Event()
        self.keeper = threading.Thread(target=self.keep_leases, name=f"{stage.name}.Leases", daemon=True)
        self.keeper.start()

    def ack(self, ack_ref, successful, failed):
        """
        Runs on the threads of processors and batch processors, several at a time.
        """
        for message in successful:
            self.settle(message.acknowledger[2][0], self.spool.delete)
        for message in failed:
            taken, on_failure = message.acknowledger[2]
            is_hopeless = on_failure == "reject" or taken.attempts >= self.max_attempts
            self.settle(taken, self.spool.reject if is_hopeless else self.spool.release)

    def configure(self, ack_ref, ack_data, options):
        """
        ``message.configure_ack(on_failure="reject")``
        """
        taken, on_failure = ack_data
        for name, value in options.items():
            if name != "on_failure":
                raise ConfigurationError(f"{name}: unknown option of configure_ack, valid options are: on_failure")
            on_failure = check_on_failure(value)
        return (taken, on_failure)  # what was not given keeps its value

    def settle(self, taken, action):
        self.in_hand.discard(taken.name)
        try:
            action(taken.name)
        except OSError as error:  # one that fails must not keep the others from being settled
            logger.warning("%s: message %s will be delivered again: %s", self.name, taken.id, error)

    def keep_leases(self):
        while not self.closed.wait(self.spool.lease / 3):
            for name in list(self.in_hand):
                self.attempt(self.spool.extend, name)
            self.attempt(self.spool.release_expired)

    def attempt(self, action, *arguments):
        try:
            action(*arguments)
        except OSError as error:  # acknowledged in this moment, or the folder is gone, which handle_demand() reports
            logger.debug("%s: %s", self.name, error)

    def close(self, is_over):
        """
        Let go of the leases; if all *is_over*, release what handlers hold that the stop did not wait for.
        """
        self.closed.set()
        self.keeper.join()
        for name in list(self.in_hand) if is_over else ():
            self.attempt(self.spool.release, name)
