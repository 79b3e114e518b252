"""Workers wait for each other here, before TensorFlow does so and lets no signal through."""

import socket
import time

# Seconds between two rounds of looking who is there, and that one of them has for an answer.
PAUSE, ANSWER = 0.5, 2.0


def meet(addresses, own, seconds):
    """Waits until every worker listens at its address, and listens at this one's meanwhile.

    Whoever has met all the others goes on to TensorFlow, which listens at the same address: those
    that come later find that.

    Args:
        addresses: list of str, `host:port` of all workers.
        own: int. This worker's place among them.
        seconds: float. How long it waits.

    Returns:
        list of str. The addresses at which nobody was; empty where all came.

    Raises:
        OSError: where this worker's own port cannot be listened at.
    """
    until = time.monotonic() + seconds
    missing = [address for place, address in enumerate(addresses) if place != own]
    _, port = _split(addresses[own])
    # As TensorFlow, at all addresses of this machine: it may know its own name as 127.0.1.1.
    with socket.create_server(("", port), backlog=2 * len(addresses)):
        while missing := [address for address in missing if not _answers(address)]:
            if time.monotonic() > until:
                break
            time.sleep(PAUSE)
    return missing


def _split(address):
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _answers(address):
    try:
        with socket.create_connection(_split(address), timeout=ANSWER) as connection:
            # On one machine a port without a listener may connect to itself.
            return connection.getsockname() != connection.getpeername()
    except OSError:
        return False
