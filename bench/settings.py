"""
Every option of a run; the command line has one for each field.
"""

from __future__ import annotations

from typing import Any, Callable, Dict

import attrs


def _option(default: Any, text: str) -> Any:
    """
    Return a field whose *text* is what ``--help`` says of it.
    """
    return attrs.field(default=default, converter=type(default), metadata={"help": text})


@attrs.frozen
class Settings:
    """
    What one process runs.
    """

    messages: int = _option(1_000_000, "messages from the source")
    concurrency: int = _option(4, "processors")
    max_demand: int = _option(10, "max_demand of the processors")
    batch_size: int = _option(100, "batch_size of the batcher, 0 for no batcher")
    batch_concurrency: int = _option(2, "batch processors")
    batch_timeout: float = _option(1.0, "batch_timeout of the batcher, in seconds")
    keys: int = _option(0, "distinct batch keys, 0 for the default key")
    partition: int = _option(0, "1: partition_by data modulo 1000, 0: none")
    sleep: float = _option(0.0, "seconds that handle_message sleeps")
    sha: int = _option(0, "1: handle_message computes SHA-256, 0: it does nothing")
    fail_every: int = _option(0, "handle_message raises for each message divisible by this, 0: never")
    telemetry: int = _option(0, "1: a handler on every event, 0: none")
    pinned: int = _option(0, "1: all threads on one core, 0: on all")
    allowed_messages: int = _option(1000, "rate limit: messages per interval")
    interval: float = _option(0.1, "rate limit: the interval in seconds")
    seconds: float = _option(5.0, "how long the idle pipeline is watched")
    times: int = _option(50, "how often a pipeline is started and stopped")
    producers: int = _option(1, "connectors: producers")
    prefetch: int = _option(0, "connectors: messages that the broker sends ahead, or at a time")

    @property
    def chunk(self) -> int:
        """
        How many messages a processor takes at a time.
        """
        return self.max_demand - self.max_demand // 2

    @property
    def acknowledge_every(self) -> int:
        """
        How many messages the raw loop of a connector acknowledges at a time: as many as the pipeline.
        """
        return self.batch_size or self.chunk

    @property
    def handler(self) -> str:
        """
        Which of ``handlers.HANDLERS`` does what these settings say.
        """
        chosen = {"keys": self.keys, "sleep": self.sleep, "sha": self.sha, "failing": self.fail_every}
        names = [name for name, value in chosen.items() if value]
        if len(names) > 1:
            raise ValueError(f"only one of keys, sleep, sha and fail_every can be set, got: {', '.join(names)}")
        return names[0] if names else "nothing"

    @property
    def context(self) -> Any:
        """
        The context of that handler.
        """
        return self.keys or self.sleep or self.fail_every

    @property
    def failures(self) -> int:
        """
        How many of the messages fail.
        """
        return -(-self.messages // self.fail_every) if self.fail_every else 0


def options() -> Dict[str, Callable[[str], Any]]:
    """
    Return the type of every option by its name.
    """
    return {field.name: type(field.default) for field in attrs.fields(Settings)}


def help_of(name: str) -> str:
    """
    Return what the command line says of the option *name*.
    """
    text: str = getattr(attrs.fields(Settings), name).metadata["help"]
    return text
