"""Workers wait for each other here, before TensorFlow does so and lets no signal through."""

import errno
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
        OSError: where this worker's own address cannot be listened at.
    """
    until = time.monotonic() + seconds
    missing = [address for place, address in enumerate(addresses) if place != own]
    with _listen(*_split(addresses[own]), backlog=2 * len(addresses)):
        while missing := [address for address in missing if not _answers(address)]:
            if time.monotonic() > until:
                break
            time.sleep(PAUSE)
    return missing


def _split(address):
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _listen(host, port, backlog):
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror:
        found = []
    for family, *_, address in found:
        try:
            return socket.create_server(address[:2], family=family, backlog=backlog)
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
    # A name that the others know this machine by, and it does not: as TensorFlow, at all of its.
    return socket.create_server(("", port), backlog=backlog)


def _answers(address):
    try:
        with socket.create_connection(_split(address), timeout=ANSWER) as connection:
            # On one machine a port without a listener may connect to itself.
            return connection.getsockname() != connection.getpeername()
    except OSError:
        return False
