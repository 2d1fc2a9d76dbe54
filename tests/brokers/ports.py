"""
Free TCP ports that stay free: reserved on the whole machine for as long as their broker lives, up or down.

The usual way, to bind port 0 and close, gives a port of the range from which outgoing connections take theirs. While
a broker is down, a client that tries again and again would sooner or later get that very port as its own, connect to
itself, and keep the broker from coming back. So ports are taken from below that range, and the UDP port of the same
number is held as the reservation: no file, and gone with the process however that ends.
"""

from __future__ import annotations

import random
import socket

HOST = "127.0.0.1"

FIRST, LAST = 15000, 32000
"""Below the ports of outgoing connections on Linux (32768 and up) and elsewhere (49152 and up)."""


class Port:
    """
    A reserved port; ``close()`` gives it back.
    """

    def __init__(self) -> None:
        for number in random.SystemRandom().sample(range(FIRST, LAST), LAST - FIRST):
            reservation = _reserve(number)
            if reservation is not None:
                self.number, self._reservation = number, reservation
                return
        raise OSError(f"no free port between {FIRST} and {LAST}")

    def close(self) -> None:
        """
        Give the port back.
        """
        self._reservation.close()


def _reserve(number: int) -> socket.socket | None:
    """
    Return the reservation of a port that nobody holds or listens on, None if somebody does.
    """
    reservation = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        reservation.bind((HOST, number))
        with socket.socket() as probe:
            probe.bind((HOST, number))
    except OSError:
        reservation.close()
        return None
    return reservation
