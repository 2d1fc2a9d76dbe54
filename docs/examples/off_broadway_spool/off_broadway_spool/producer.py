"""
The producer: takes what is wanted, and tries again when the folder is out of reach.
"""

import random

from broadway_sync import ConfigurationError, Message, Producer

from .acknowledger import SpoolAcknowledger, check_on_failure, logger
from .spool import Spool

OPTIONS = ("folder", "lease", "on_failure", "max_attempts")


class SpoolProducer(Producer):
    """
    Delivers the files of a :class:`Spool`, at least once, the oldest first.

    Args:
        folder: Path of the spool; it need not be there yet.
        lease: Seconds after which the messages of a process that died are delivered again.
        on_failure: ``"retry"``, or ``"reject"``: into the folder ``failed``.
        max_attempts: A message that failed so often is rejected.
    """

    poll_interval = 0.1

    def __init__(self, folder, lease=30.0, on_failure="retry", max_attempts=5):
        self.spool = Spool(folder, lease)
        self.on_failure = on_failure
        self.max_attempts = max_attempts
        self.failures = 0

    @classmethod
    def validate_options(cls, options):
        """
        Called by the constructor of ``Pipeline``: whatever is wrong shows before anything starts.
        """
        for name in options:
            if name not in OPTIONS:
                raise ConfigurationError(f"{name}: unknown option, valid options are: {', '.join(OPTIONS)}")
        if not isinstance(options.get("folder"), str) or not options["folder"]:
            raise ConfigurationError(f"folder: expected a non-empty str, got: {options.get('folder')!r}")
        for name in ("lease", "max_attempts"):
            value = options.get(name, 1)
            if not isinstance(value, (int, float)) or value <= 0:
                raise ConfigurationError(f"{name}: expected a number > 0, got: {value!r}")
        check_on_failure(options.get("on_failure", "retry"))
        return options

    def init(self):
        self.acknowledger = SpoolAcknowledger(self.spool, self.max_attempts, self.stage)

    def handle_demand(self, demand):
        try:
            taken = self.spool.take(demand)
        except OSError as error:
            return self.back_off(error)
        self.failures = 0
        self.acknowledger.in_hand.update(each.name for each in taken)
        return [self.to_message(each) for each in taken]

    def back_off(self, error):
        """
        Wait longer after each attempt, and say so once. A stop ends the wait.
        """
        if not self.failures:
            logger.warning("%s: no connection to the spool: %s", self.stage.name, error)
        self.failures = min(self.failures + 1, 9)
        self.stage.wait(random.uniform(0.5, 1.0) * 0.05 * 2**self.failures)
        return []

    def to_message(self, taken):
        metadata = {"id": taken.id, "attempts": taken.attempts}
        return Message(taken.data, (self.acknowledger, None, (taken, self.on_failure)), metadata=metadata)

    def terminate(self, reason):
        """
        Everything is acknowledged, the time for that is over, or this producer crashed.
        """
        # After a crash the pipeline still handles and acknowledges what it has, while another producer goes on.
        self.acknowledger.close(is_over=not isinstance(reason, BaseException))
