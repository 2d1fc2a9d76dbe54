"""
RabbitMQ, as Debian packages it (``apt-get install rabbitmq-server``), run by whoever runs the tests.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterable, Iterator

from tests.brokers.broker import POLL_INTERVAL, READY_BOUND, Broker, BrokerError, unique
from tests.brokers.ports import HOST
from tests.brokers.process import SCALE, Process

# The commands in /usr/sbin are wrappers that become the user rabbitmq, or refuse.
SCRIPTS = Path(os.environ.get("BROADWAY_RABBITMQ", "/usr/lib/rabbitmq/bin"))

GREETING = b"AMQP\x00\x00\x09\x01"
METHOD_FRAME = b"\x01"


class RabbitMQ(Broker):
    """
    One node with durable data: queues and persistent messages survive ``stop()`` and ``kill()``.

    After a ``kill()``, messages that were acknowledged in the last second come back: acknowledgements are not synced.
    Queues that were declared in the last seconds are gone, unless ``sync()`` came after them.

    Args:
        plugins: Names of plugins to enable, for example ``"rabbitmq_management"`` (starts slower, takes more memory).
        config: Lines of rabbitmq.conf.
    """

    name = "RabbitMQ"
    user = "guest"
    password = "guest"

    def __init__(self, plugins: Iterable[str] = (), config: dict[str, str] | None = None) -> None:
        super().__init__()
        self.host = HOST
        self.port, self._node_port, self._epmd_port, self.management_port = (self.reserve() for _ in range(4))
        self._plugins = tuple(plugins)
        self._config = dict(config or {})
        self._node = f"broadway{self.port}@localhost"
        self._epmd: Process | None = None

    @classmethod
    def missing(cls) -> str | None:
        """
        The server, and Erlang, which comes with it.
        """
        if not (SCRIPTS / "rabbitmq-server").exists() or not shutil.which("epmd"):
            return "needs rabbitmq-server (apt-get install rabbitmq-server)"
        return None

    # ---- how it runs

    def command(self) -> list[str]:
        """
        The start script, which becomes the Erlang process.
        """
        return [str(SCRIPTS / "rabbitmq-server")]

    def environment(self) -> dict[str, str]:
        """
        Everything that keeps this node from the machine's own files, ports and epmd.
        """
        names = {
            "RABBITMQ_ADVANCED_CONFIG_FILE": "advanced.config",
            "RABBITMQ_BASE": "",
            "RABBITMQ_CONF_ENV_FILE": "none.conf",  # does not exist: /etc/rabbitmq is not read
            "RABBITMQ_CONFIG_FILE": "rabbitmq.conf",
            "RABBITMQ_ENABLED_PLUGINS_FILE": "enabled_plugins",
            "RABBITMQ_GENERATED_CONFIG_DIR": "generated",
            "RABBITMQ_LOG_BASE": "log",
            "RABBITMQ_MNESIA_BASE": "mnesia",
            "RABBITMQ_PID_FILE": "rabbitmq.pid",
            "HOME": "",  # for .erlang.cookie
        }
        environment = {**os.environ, **{name: str(self.folder / path) for name, path in names.items()}}
        environment.pop("NOTIFY_SOCKET", None)
        return {
            **environment,
            "ERL_EPMD_ADDRESS": HOST,
            "ERL_EPMD_PORT": str(self._epmd_port),
            "RABBITMQ_DIST_PORT": str(self._node_port),
            "RABBITMQ_LOGS": "-",  # standard output
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_NODENAME": self._node,
            # Without the last one a daemon epmd would be left behind.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} -start_epmd false",
            "RUNNING_UNDER_SYSTEMD": "true",  # the script execs: signals reach the node, not a shell
        }

    def prepare(self) -> None:
        """
        Write the configuration; start the epmd of this node.
        """
        (self.folder / "rabbitmq.conf").write_text("".join(f"{k} = {v}\n" for k, v in self._settings().items()))
        # How often a channel looks for deliveries that are older than consumer_timeout: once a minute otherwise.
        (self.folder / "advanced.config").write_text("[{rabbit, [{channel_tick_interval, 1000}]}].\n")
        (self.folder / "enabled_plugins").write_text(f"[{','.join(self._plugins)}].\n")
        cookie = self.folder / ".erlang.cookie"
        if not cookie.exists():
            cookie.write_text(os.urandom(10).hex())
            cookie.chmod(0o400)
        self._start_epmd()

    def _settings(self) -> dict[str, str]:
        settings = {
            "listeners.tcp.default": f"{HOST}:{self.port}",
            "loopback_users": "none",
            "log.console": "true",
            "log.console.level": "info",
            "log.file": "false",
            "disk_free_limit.absolute": "50MB",
            "vm_memory_high_watermark.absolute": "1GB",
        }
        if "rabbitmq_management" in self._plugins:
            settings.update({"management.tcp.ip": HOST, "management.tcp.port": str(self.management_port)})
        return {**settings, **self._config}

    def _start_epmd(self) -> None:
        if self._epmd is not None and self._epmd.is_alive:
            return
        command = ["epmd", "-port", str(self._epmd_port), "-address", HOST]
        environment = self.environment()
        self._epmd = Process(command, env=environment, cwd=self.folder, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + READY_BOUND
        while not self._listens(self._epmd_port):
            if time.monotonic() > deadline:
                raise BrokerError(f"epmd did not listen in {READY_BOUND} s")
            time.sleep(POLL_INTERVAL)

    @staticmethod
    def _listens(port: int) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((HOST, port)) == 0

    def is_ready(self) -> bool:
        """
        Whether it answers the AMQP greeting: that listener opens last.
        """
        with socket.create_connection((HOST, self.port), 2 * SCALE) as connection:
            connection.sendall(GREETING)
            return connection.recv(1) == METHOD_FRAME

    def close(self) -> None:
        """
        End the node and its epmd.
        """
        super().close()
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd = None

    # ---- what tests ask of it

    @property
    def url(self) -> str:
        """
        The address for clients, of the default virtual host.
        """
        return self.url_of()

    def url_of(self, port: int | None = None, vhost: str = "%2F", user: str = user, password: str = password) -> str:
        """
        Return an address with other parts: the port of a proxy, another virtual host, other credentials.
        """
        return f"amqp://{user}:{password}@{HOST}:{port or self.port}/{vhost}"

    def ctl(self, *arguments: str) -> str:
        """
        Run ``rabbitmqctl`` (takes half a second or more) and return its output without decoration.
        """
        done = subprocess.run(
            [str(SCRIPTS / "rabbitmqctl"), "--quiet", "-n", self._node, *arguments],
            env=self.environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=READY_BOUND,
        )  # fmt: skip
        if done.returncode:
            raise BrokerError(f"rabbitmqctl {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout

    def set_env(self, key: str, value: str) -> None:
        """
        Change a setting of the running node, an Erlang term, for example ``set_env("consumer_timeout", "2000")``.
        """
        self.ctl("eval", f"application:set_env(rabbit, {key}, {value}).")

    def vhost(self) -> str:
        """
        Make a virtual host and return its name.
        """
        name = unique("vhost")
        self.ctl("add_vhost", name)
        self.ctl("set_permissions", "-p", name, self.user, ".*", ".*", ".*")
        return name

    def close_connections(self, reason: str = "closed by a test") -> None:
        """
        Let the server close every client's connection.
        """
        self.ctl("close_all_connections", reason)

    @contextmanager
    def channel(self, url: str | None = None) -> Iterator[Any]:
        """
        Yield a channel (pika) of a new connection, with publisher confirms, closed at the end.
        """
        import pika

        connection = pika.BlockingConnection(pika.URLParameters(url or self.url))
        try:
            channel = connection.channel()
            channel.confirm_delivery()
            yield channel
        finally:
            if connection.is_open:
                connection.close()

    def queue(self, name: str | None = None, **options: Any) -> str:
        """
        Declare a new durable queue and return its name; *options* as for pika's ``queue_declare``.
        """
        name = name or unique("queue")
        with self.channel() as channel:
            channel.queue_declare(name, **{"durable": True, **options})
        return name

    def sync(self) -> None:
        """
        Have everything that was declared written down.
        """
        self.ctl("eval", "mnesia:sync_log().")

    def publish(self, queue: str, bodies: Iterable[bytes | str], *, exchange: str = "", **properties: Any) -> None:
        """
        Publish persistent messages and return when the broker has them all.

        They go in one transaction, which is much quicker than a confirm for each.

        Args:
            queue: The queue, or the routing key of *exchange*.
            bodies: One message each.
            exchange: The exchange; the default one reaches queues by their name.
            properties: Of each message, as for pika's ``BasicProperties``.
        """
        import pika

        basic = pika.BasicProperties(**{"delivery_mode": 2, **properties})
        connection = pika.BlockingConnection(pika.URLParameters(self.url))
        try:
            channel = connection.channel()
            channel.tx_select()
            for body in bodies:
                channel.basic_publish(exchange, queue, body.encode() if isinstance(body, str) else body, basic)
            channel.tx_commit()
        finally:
            connection.close()

    def ready_count(self, queue: str) -> int:
        """
        Return how many messages wait in the queue; those with a consumer do not count.

        What a consumer has just handed back, or left behind, may be missing for a moment: the queue answers this first.
        """
        with self.channel() as channel:
            return int(channel.queue_declare(queue, passive=True).method.message_count)

    def consumer_count(self, queue: str) -> int:
        """
        Return how many consumers the queue has.
        """
        with self.channel() as channel:
            return int(channel.queue_declare(queue, passive=True).method.consumer_count)

    def counts(self, queue: str) -> tuple[int, int]:
        """
        Return how many messages of the queue are ready, and how many a consumer has and did not acknowledge.

        Exact, but by ``rabbitmqctl``: half a second or more a call.
        """
        for line in self.ctl("list_queues", "name", "messages_ready", "messages_unacknowledged").splitlines():
            name, *numbers = line.split("\t")
            if name == queue:
                return int(numbers[0]), int(numbers[1])
        raise BrokerError(f"there is no queue {queue!r}")

    def take(self, queue: str) -> list[tuple[bytes, Any, Any]]:
        """
        Take all messages out of the queue; return ``(body, properties, method)`` of each.
        """
        taken = []
        with self.channel() as channel:
            while True:
                method, properties, body = channel.basic_get(queue, auto_ack=True)
                if method is None:
                    return taken
                taken.append((body, properties, method))

    def delete_queue(self, queue: str) -> None:
        """
        Delete the queue under its consumers.
        """
        with self.channel() as channel:
            channel.queue_delete(queue)
