"""Workers find each other by sockets, whoever comes first."""

import socket
import threading
import time

import pytest

from d2v_tf.training.meeting import meet
from tests.end_to_end.lives import free_addresses


def test_all_meet_whoever_comes_last():
    addresses, found = free_addresses(3), {}

    def come(own):
        time.sleep(0.7 * own)
        found[own] = meet(addresses, own, 20)
        # As TensorFlow does next, for those that have not looked yet.
        host, port = addresses[own].split(":")
        with socket.create_server((host, int(port))):
            time.sleep(3)

    threads = [threading.Thread(target=come, args=(own,)) for own in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {0: [], 1: [], 2: []}


def test_who_does_not_come_is_named():
    mine, there, missing = free_addresses(3)
    host, port = there.split(":")
    with socket.create_server((host, int(port))):
        assert meet([missing, mine, there], 1, 0.1) == [missing]


def test_an_address_that_is_taken():
    mine, other = free_addresses(2)
    host, port = mine.split(":")
    with socket.create_server((host, int(port))), pytest.raises(OSError, match="in use"):
        meet([mine, other], 0, 5)
