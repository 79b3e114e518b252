"""Batches that other machines decode: tf.data's service, with the order of a run kept."""

import contextlib
import os
import socket
import sys
import threading
import time

import tensorflow as tf

from d2v_tf.data.reading import DataError, without_python

CONNECT_SECONDS = 10.0
# How often a run looks whether its services are there, and how long one may be silent, in seconds.
LOOK_SECONDS, SILENT_SECONDS = 15.0, 60.0


def open_services(addresses):
    """Checks that somebody listens at each address.

    Args:
        addresses: list of str, `grpc://HOST:PORT` each, of `tools/serve_data.py`.

    Returns:
        tuple of str.

    Raises:
        DataError: names the address that is none, or where nobody answers.
    """
    for address in addresses:
        host, port = _host_and_port(address)
        known = address.startswith("grpc://") and host and port.isdecimal()
        if not known or int(port) > 65535:
            raise DataError(
                f"--data_service={address} is no address: expected grpc://HOST:PORT, several of "
                "them with commas between."
            )
        try:
            _connect(address)
        except OSError as error:
            raise DataError(
                f"--data_service={address}: nobody answers ({error}). Start tools/serve_data.py "
                "there, and give the address that it prints."
            ) from None
    return tuple(addresses)


def _host_and_port(address):
    host, _, port = address.removeprefix("grpc://").rpartition(":")
    return host.strip("[]"), port


def _connect(address):
    host, port = _host_and_port(address)
    socket.create_connection((host, int(port)), CONNECT_SECONDS).close()


@contextlib.contextmanager
def watched(services):
    """Ends the process once one of its services has been silent for `SILENT_SECONDS`.

    Whoever waits for its batches waits in TensorFlow, which asks again and again and lets neither
    an error nor a signal through. The last checkpoint stands.

    Args:
        services: sequence of str, addresses.
    """
    left = threading.Event()
    thread = threading.Thread(target=_watch, args=(services, left), daemon=True)
    if services:
        thread.start()
    try:
        yield
    finally:
        left.set()


def _watch(services, left):
    heard = dict.fromkeys(services, time.monotonic())
    while not left.wait(LOOK_SECONDS):
        for address in services:
            try:
                _connect(address)
                heard[address] = time.monotonic()
            except OSError as error:
                silent = time.monotonic() - heard[address]
                if silent >= SILENT_SECONDS and not left.is_set():
                    print(
                        f"error: --data_service={address}: nobody has answered for {silent:.0f} s "
                        f"({error}). Start tools/serve_data.py there again, or leave the flag out, "
                        "and the same command goes on from the newest checkpoint.",
                        file=sys.stderr,
                        flush=True,
                    )
                    os._exit(1)


def decoded_by(services, batches):
    """The same batches, each address decoding an equal part of every batch's rows.

    tf.data's service keeps an order only where one process makes all of a dataset, so each address
    gets a dataset of its own; their rows are put together in the order of the run.

    Args:
        services: tuple of str, from `open_services`.
        batches: function of (number of workers, worker) to the dataset of that worker's rows, which
            are every num_workers-th of the whole batch.

    Returns:
        Such a function.
    """
    count = len(services)

    def put_together(*parts):
        def merge(*rows):  # [B / count, ...] each
            stacked = tf.stack(rows, axis=1)
            return tf.reshape(stacked, [rows[0].shape[0] * count, *stacked.shape[2:]])

        return tf.nest.map_structure(merge, *parts)

    def part_of(address, num_workers, worker):
        with without_python():
            dataset = batches(num_workers, worker)
        return dataset.apply(
            tf.data.experimental.service.distribute(
                processing_mode=tf.data.experimental.service.ShardingPolicy.OFF,
                service=address,
            )
        )

    def served(num_workers, worker):
        parts = [
            part_of(address, num_workers * count, worker + num_workers * part)
            for part, address in enumerate(services)
        ]
        return tf.data.Dataset.zip(*parts).map(put_together).prefetch(2)

    return served
