"""Trains one model in one replica and in several; prints how far apart the results are.

A process of its own: logical devices are made before TensorFlow starts.
"""

import json
import sys
from unittest import mock

import keras
import numpy as np
import tensorflow as tf

from d2v_tf.backbones.speech import Data2VecSpeechBackbone
from d2v_tf.backbones.text import Data2VecTextBackbone
from d2v_tf.masking import span_mask, token_mask
from d2v_tf.pretraining.data2vec import Data2Vec
from d2v_tf.pretraining.fused_adamw import FusedAdamW
from d2v_tf.pretraining.replicas import replica_scope
from d2v_tf.training.strategy import Replicas, open_replicas
from tests.numpy_reference import randomize
from tests.pretraining.tiny import vision_backbone

STEPS = 2
BATCH = 8  # four replicas get two examples each, of unequal numbers of masked positions


def vision(**kwargs):
    backbone = vision_backbone(num_layers=2, **kwargs.pop("backbone", {}))
    return Data2Vec(
        backbone,
        **{"num_target_layers": 2, "normalize_average": True, "loss_beta": 0.5, **kwargs},
    )


def vision_batch():
    rng = np.random.default_rng(0)
    masked = rng.permutation(np.arange(BATCH) % 5)
    return {
        "images": rng.normal(size=(BATCH, 8, 12, 3)).astype("float32"),
        "mask": np.arange(6) < masked[:, None],
    }


def speech():
    backbone = Data2VecSpeechBackbone(
        num_layers=1,
        hidden_dim=8,
        num_heads=2,
        intermediate_dim=12,
        conv_dims=(5, 6),
        conv_kernel_sizes=(10, 3),
        conv_strides=(5, 2),
        position_conv_layers=1,
        position_conv_kernel_size=5,
        position_conv_groups=2,
    )
    return Data2Vec(backbone, num_target_layers=1, target_norm="instance", compile_parts=True)


def speech_batch():
    rng = np.random.default_rng(0)
    lengths = np.linspace(120, 400, BATCH).astype(int)
    frames = (lengths - 10) // 5 // 2
    seeds = tf.constant([[0, i] for i in range(BATCH)])
    mask = span_mask(39, seeds, frames, span_length=3, start_ratio=0.15)
    return {
        "waveform": rng.normal(size=(BATCH, 400)).astype("float32"),
        "padding_mask": np.arange(400) < lengths[:, None],
        "mask": mask.numpy(),
    }


def text_backbone():
    return Data2VecTextBackbone(
        vocabulary_size=11,
        max_sequence_length=8,
        num_layers=1,
        hidden_dim=8,
        num_heads=2,
        intermediate_dim=12,
        dropout=0.0,
        attention_dropout=0.0,
    )


def text():
    backbone = text_backbone()
    return Data2Vec(backbone, num_target_layers=1, loss_beta=0.5, head_layers=2, accumulate=2)


def text_batch():
    rng = np.random.default_rng(0)
    tokens = rng.integers(3, 10, size=(BATCH, 8)).astype("int32")
    tokens[np.arange(8) >= rng.integers(4, 9, size=(BATCH, 1))] = 1
    seeds = tf.constant([[0, i] for i in range(BATCH)])
    masked, mask = token_mask(
        tf.constant(tokens), seeds, 10, (0, 1, 2), 11, ratio=0.4, random_part=0.0, keep_part=0.0
    )
    return {
        "token_ids": masked.numpy(),
        "target_token_ids": tokens,
        "padding_mask": tokens != 1,
        "mask": mask.numpy(),
    }


CASES = {
    "vision": (vision, vision_batch),
    "speech": (speech, speech_batch),
    "text": (text, text_batch),
    "batch norm": (lambda: vision(target_norm="batch"), vision_batch),
}


# With more than two replicas: counts that differ, and micro-batches.
FOR_MANY = "vision", "text"


def train(build, batch, replicas, optimizer_class=FusedAdamW, steps=STEPS, **compile_options):
    """A few updates whose gradients are clipped; returns the model and every update's logs."""
    with replica_scope(replicas.strategy):
        keras.utils.set_random_seed(0)
        model = build()
        randomize(model.weights, 1)
        optimizer = optimizer_class(0.01, weight_decay=0.1, epsilon=1e-3, global_clipnorm=0.5)
        optimizer.exclude_from_weight_decay(var_names=["bias"])
        optimizer.build(model.trainable_variables)
        model.compile(optimizer, **{"jit_compile": False, **compile_options})
    kept = []
    keep = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda _, logs: kept.append({k: float(v) for k, v in logs.items()})
    )

    def batches(num_workers, worker):
        rows = {name: rows[worker::num_workers] for name, rows in batch.items()}
        return tf.data.Dataset.from_tensors(rows).repeat()

    dataset = replicas.distribute(batches)
    model.fit(dataset, steps_per_epoch=steps, verbose=0, shuffle=False, callbacks=[keep])
    return model, kept


def difference(one, other):
    """The largest relative difference of the logs, and absolute one of all variables."""
    (model, logs), (expected, expected_logs) = one, other
    in_logs = max(
        abs(new[name] - old[name]) / max(abs(old[name]), 1e-3)
        for new, old in zip(logs, expected_logs, strict=True)
        for name in old
    )
    pairs = zip(all_variables(model), all_variables(expected), strict=True)
    in_variables = max(np.abs(np.asarray(a) - np.asarray(b)).max() for a, b in pairs)
    return float(in_logs), float(in_variables)


def all_variables(model):
    return [v.value.numpy() for v in [*model.variables, *model.optimizer.variables]]


def mirrored(model):
    """Whether all replicas hold the same numbers."""
    return all(
        np.array_equal(copy, copies[0])
        for v in [*model.variables, *model.optimizer.variables]
        for copies in [[copy.numpy() for copy in v.value.values]]
        for copy in copies
    )


def apart(replicas):
    """Whether two replicas with the same rows and dropout compute other losses than one alone."""
    rows = {name: np.concatenate([x[:4]] * 2) for name, x in vision_batch().items()}

    def build():
        return vision(backbone={"dropout": 0.5})

    one = Replicas(tf.distribute.get_strategy())
    half = {name: x[:4] for name, x in rows.items()}
    alone = train(build, half, one)
    both = train(build, rows, replicas)
    seeds = [
        [v.value.numpy() for v in model.variables if "seed_generator" in v.path]
        for model, _ in (alone, both)
    ]
    same_seeds = all(np.array_equal(a, b) for a, b in zip(*seeds, strict=True))
    return alone[1][0]["loss"] != both[1][0]["loss"], bool(seeds[0]) and same_seeds


def traces(replicas):
    """How often each replica's update is traced in a fit of fifty."""
    traced, train_step = [], Data2Vec.train_step

    def note(self, data):
        traced.append(tf.distribute.get_replica_context().replica_id_in_sync_group)
        return train_step(self, data)

    with mock.patch.object(Data2Vec, "train_step", note):
        _, logs = train(vision, vision_batch(), replicas, steps=50)
    return len(logs), [int(tf.get_static_value(number)) for number in traced]


def main(count):
    cpu = tf.config.list_physical_devices("CPU")[0]
    logical = [tf.config.LogicalDeviceConfiguration()] * count
    tf.config.set_logical_device_configuration(cpu, logical)
    # One strategy a process: TensorFlow numbers the devices' groups as if there were no other.
    replicas, one = open_replicas("mirrored"), open_replicas("cpu")
    report("counts", [one.count, replicas.count, replicas.describe()])
    for name, (build, batch) in CASES.items():
        if count > 2 and name not in FOR_MANY:
            continue
        batch = batch()
        # One case with an optimizer of Keras' own, which has to be told not to add up again.
        kind = keras.optimizers.AdamW if name == "batch norm" else FusedAdamW
        alone = train(build, batch, one, kind)
        several = train(build, batch, replicas, kind)
        report(name, [*difference(several, alone), mirrored(several[0])])
        if name == "vision" and count == 2:
            # Compiled, in micro-batches, their blocks computed twice.
            several = train(
                lambda: vision(accumulate=2, remat=True), batch, replicas, jit_compile=True
            )
            report("vision XLA", [*difference(several, alone), mirrored(several[0])])
            report("dropout", apart(replicas))
            report("traces", traces(replicas))


def report(name, result):
    print(json.dumps({name: result}), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
