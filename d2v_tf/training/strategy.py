"""Which devices and processes a run is computed on."""

import contextlib
import dataclasses
import faulthandler
import functools
import json
import os
import select
import sys

import tensorflow as tf

from d2v_tf.data.service import decoded_by
from d2v_tf.training.cluster import StrategyError, read_cluster
from d2v_tf.training.meeting import meet

STRATEGIES = ("auto", "cpu", "mirrored", "multiworker", "tpu")
# Seconds that a worker waits for the others before it gives up.
WAIT_SECONDS = 600.0


@dataclasses.dataclass(frozen=True)
class Replicas:
    """Where a run is computed.

    Attributes:
        strategy: `tf.distribute.Strategy`.
        num_workers: int. Processes that train together.
        worker: int. This one's number; 0 is the chief, which writes for all.
        services: tuple of str. Addresses of what decodes the input instead of the workers.
    """

    strategy: tf.distribute.Strategy
    num_workers: int = 1
    worker: int = 0
    services: tuple[str, ...] = ()

    @property
    def count(self):
        """int. Replicas in all workers."""
        return self.strategy.num_replicas_in_sync

    @property
    def is_chief(self):
        """bool."""
        return self.worker == 0

    def describe(self):
        """str, for the summary."""
        kind = "TPU core" if isinstance(self.strategy, tf.distribute.TPUStrategy) else None
        kind = kind or ("GPU" if tf.config.get_visible_devices("GPU") else "CPU")
        devices = f"{self.count} {kind}{'s' if self.count > 1 else ''}"
        return devices + (f" in {self.num_workers} processes" if self.num_workers > 1 else "")

    def gather(self, number):
        """A whole number of every worker, in their order; waits until all have given theirs."""
        if self.num_workers == 1:
            return [int(number)]
        return self._gather(tf.constant(int(number), tf.int64)).numpy().tolist()

    @functools.cached_property
    def _gather(self):
        nothing = tf.zeros([], tf.int64)

        def of_replica(number):
            own = tf.one_hot(self.worker, self.num_workers, number, nothing)  # [num_workers]
            return tf.distribute.get_replica_context().all_reduce("SUM", own)

        @tf.function
        def gather(number):
            sums = self.strategy.run(of_replica, args=(number,))
            sums = self.strategy.experimental_local_results(sums)
            return sums[0] // len(sums)  # each local replica has added it once

        return gather

    def distribute(self, batches):
        """What `fit` reads: each replica's part of every batch.

        Args:
            batches: function of (number of workers, worker) to the dataset of that worker's rows.

        Returns:
            A dataset, or a distributed one. Each worker opens its own only.
        """
        if self.services:
            batches = decoded_by(self.services, batches)
        if self.count == 1:
            return batches(1, 0)

        def of_worker(context):
            local = context.num_replicas_in_sync // context.num_input_pipelines
            dataset = batches(context.num_input_pipelines, context.input_pipeline_id)
            if isinstance(self.strategy, tf.distribute.TPUStrategy):
                check_one_shape(dataset)
            # Without an end there is nothing for the replicas to agree on before every batch.
            endless = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
            return split_rows(dataset, local).apply(endless).prefetch(local)

        return self.strategy.distribute_datasets_from_function(of_worker)


def split_rows(dataset, parts):
    """Cuts each batch into so many equal ones, which follow each other."""
    if parts == 1:
        return dataset

    def cut(x):
        shape = [tf.shape(x)[i] if size is None else size for i, size in enumerate(x.shape)]
        return tf.reshape(x, [parts, shape[0] // parts, *shape[1:]])

    def cut_batch(*batch):
        batch = batch if isinstance(dataset.element_spec, tuple) else batch[0]
        return tf.nest.map_structure(cut, batch)

    return dataset.map(cut_batch).unbatch()


def check_one_shape(dataset):
    """Refuses batches of several shapes, for which a TPU has no program.

    Raises:
        StrategyError: names what has them.
    """
    for name, spec in dataset.element_spec.items():
        if not spec.shape.is_fully_defined():
            raise StrategyError(
                f"--strategy=tpu takes batches of one shape, and {name} is {spec.shape}. Pad "
                "speech to one length: --set data.buckets=1."
            )


def open_replicas(name="auto", environ=os.environ, say=print):
    """Finds the devices and processes of a run. To be called before TensorFlow computes anything.

    Args:
        name: `"auto"`: all GPUs of this machine, or its CPU where there is none. `"cpu"`: that,
            whatever else there is. `"mirrored"`: all GPUs, at least two (or logical CPUs, where
            TensorFlow was told to make some). `"multiworker"`: all processes that `TF_CONFIG` or
            Slurm names, each with all GPUs that it sees. `"tpu"`: the TPU of this machine, or
            `"tpu:ADDRESS"`.
        environ: dict of environment variables, with `TF_CONFIG` or Slurm's.
        say: function of a line, told whom this process waits for.

    Returns:
        `Replicas`. Workers meet first; one that then waits for `WAIT_SECONDS` more in TensorFlow,
        which lets no error through, says so and ends its process.

    Raises:
        StrategyError: where that is not there.
    """
    kind, _, address = name.partition(":")
    if kind not in STRATEGIES or (address and kind != "tpu"):
        raise StrategyError(
            f"--strategy={name} is not one of {', '.join(STRATEGIES)} or tpu:ADDRESS."
        )
    if kind == "tpu":
        return Replicas(_tpu(address))
    if kind == "multiworker":
        return _multiworker(environ, say)
    try:
        if kind == "cpu":
            tf.config.set_visible_devices([], "GPU")
        gpus = tf.config.list_logical_devices("GPU")
    except RuntimeError as error:
        raise StrategyError(
            f"--strategy={name} comes too late: TensorFlow runs already ({error})."
        ) from None
    if kind == "mirrored":
        devices = gpus or tf.config.list_logical_devices("CPU")
        if len(devices) < 2:
            found = "1 GPU" if gpus else "no GPU"
            raise StrategyError(
                f"--strategy=mirrored takes at least two GPUs, and TensorFlow sees {found}. Check "
                "nvidia-smi and CUDA_VISIBLE_DEVICES, and that TensorFlow was installed with "
                "tensorflow[and-cuda]; or use --strategy=auto."
            )
        return Replicas(tf.distribute.MirroredStrategy([device.name for device in devices]))
    if len(gpus) > 1:
        return Replicas(tf.distribute.MirroredStrategy([gpu.name for gpu in gpus]))
    return Replicas(tf.distribute.get_strategy())  # TensorFlow's own: the GPU if there is one


def _tpu(address):
    where = address or "local"
    if not address and not tf.config.list_physical_devices("TPU"):
        raise StrategyError(
            "--strategy=tpu: no TPU at local. On a TPU VM, install tensorflow-tpu (its newest is "
            "2.20) in place of tensorflow; for a TPU elsewhere give its name or grpc:// address: "
            "--strategy=tpu:ADDRESS."
        )
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=where)
        if address:
            tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return tf.distribute.TPUStrategy(resolver)
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        raise StrategyError(
            f"--strategy=tpu: the TPU at {where} cannot be used ({_first_line(error)}). If another "
            "process has it, end that one; if it is elsewhere, check its name or grpc:// address."
        ) from error


def _multiworker(environ, say):
    cluster, job, index = read_cluster(environ)
    addresses = cluster.get("chief", []) + cluster.get("worker", [])
    if len(addresses) == 1:
        return open_replicas("auto")
    worker = index if job == "chief" else len(cluster.get("chief", [])) + index
    task = {"cluster": cluster, "task": {"type": job, "index": index}}
    os.environ["TF_CONFIG"] = json.dumps(task)  # where TensorFlow looks for it
    others = ", ".join(addresses[:worker] + addresses[worker + 1 :])
    say(f"worker {worker} of 0 to {len(addresses) - 1} waits for the others, at {others}")
    sys.stdout.flush()  # a file, as Slurm has it, would not show it while it counts
    try:
        missing = meet(addresses, worker, WAIT_SECONDS)
    except OSError as error:
        raise StrategyError(
            f"--strategy=multiworker: worker {worker} cannot listen at {addresses[worker]} "
            f"({error.strerror or error}). Check that the port is free, and the address this "
            "machine's."
        ) from error
    if missing:
        raise StrategyError(_waited(worker, missing))
    try:
        with _ends_unless_left(_waited(worker, [others])):
            strategy = tf.distribute.MultiWorkerMirroredStrategy()
    except (tf.errors.OpError, RuntimeError, ValueError) as error:
        raise StrategyError(
            f"--strategy=multiworker: worker {worker} cannot listen at {addresses[worker]} or meet "
            f"the {len(addresses) - 1} others ({_first_line(error)}). Check that the addresses and "
            "ports are free and reachable."
        ) from error
    return Replicas(strategy, len(addresses), worker)


def _waited(worker, others):
    return (
        f"--strategy=multiworker: worker {worker} has waited {WAIT_SECONDS / 60:g} minutes for "
        f"the others, at {', '.join(others)}. See what they printed, and that these addresses can "
        "be reached from here; then start all of them anew."
    )


@contextlib.contextmanager
def _ends_unless_left(message):
    """Ends the process with a message after `WAIT_SECONDS`, unless the context is left before.

    Inside, TensorFlow keeps Python's lock and takes SIGTERM to itself, also where a worker is lost
    that was there before. So another process speaks, and `faulthandler`, which needs no lock, ends
    this one.
    """
    source, sink = os.pipe()
    child = os.fork()
    if not child:
        os.close(sink)
        if not select.select([source], [], [], WAIT_SECONDS)[0]:
            os.write(2, f"error: {message}\n".encode())
        os._exit(0)
    os.close(source)
    try:
        with open(os.devnull, "w") as nothing:
            faulthandler.dump_traceback_later(WAIT_SECONDS + 1, exit=True, file=nothing)
            try:
                yield
            finally:
                faulthandler.cancel_dump_traceback_later()
    finally:
        os.close(sink)
        os.waitpid(child, 0)


def _first_line(error):
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
