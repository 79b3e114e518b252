"""Batches that other machines decode: tf.data's service, with the order of a run kept."""

import socket

import tensorflow as tf

from d2v_tf.data.reading import DataError, without_python

CONNECT_SECONDS = 10.0


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
        host, _, port = address.removeprefix("grpc://").rpartition(":")
        known = address.startswith("grpc://") and host and port.isdecimal()
        if not known or int(port) > 65535:
            raise DataError(
                f"--data_service={address} is no address: expected grpc://HOST:PORT, several of "
                "them with commas between."
            )
        try:
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
        except OSError as error:
            raise DataError(
                f"--data_service={address}: nobody answers ({error}). Start tools/serve_data.py "
                "there, and give the address that it prints."
            ) from None
    return tuple(addresses)


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
