"""Fine-tunes in one replica and in two; prints how far apart the results are.

A process of its own: logical devices are made before TensorFlow starts.
"""

import contextlib
import io
import json
import sys
from pathlib import Path
from unittest import mock

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console

from d2v_tf.backbones.vision import Data2VecVisionBackbone
from d2v_tf.config import load_finetune_recipe
from d2v_tf.finetuning.optimizer import LayerwiseAdamW, lr_scales
from d2v_tf.finetuning.text_classifier import Data2VecTextClassifier
from d2v_tf.pretraining.replicas import replica_scope
from d2v_tf.training.evaluations import Evaluations
from d2v_tf.training.finetune import finetune
from d2v_tf.training.logs import read_json_lines
from d2v_tf.training.strategy import open_replicas
from d2v_tf.training.supervised import Supervised
from tests.data.images import write_tree
from tests.finetuning import tiny_ctc
from tests.numpy_reference import randomize
from tests.replicas.compare import text_backbone

# The head alone at first, then all of it, clipped.
RECIPE = """
modality: vision
task: classify
init: PRESET
batch_size: 4
steps: 6
precision: float32
xla: false
log_every: 1
optimizer: {learning_rate: 0.003, epsilon: 0.001, layer_decay: 0.8, weight_decay: 0.05,
            global_clipnorm: 0.2}
freeze: {backbone_steps: 2}
evaluate_every: 3
checkpoint_every: 2
"""


def texts():
    task = Data2VecTextClassifier(text_backbone(), 3, dropout=0.0)
    task.compile(loss=keras.losses.CategoricalCrossentropy(from_logits=True), metrics=None)
    return task


def texts_batch():
    rng = np.random.default_rng(0)
    tokens = rng.integers(3, 10, size=(6, 8)).astype("int32")
    tokens[np.arange(8) >= rng.integers(4, 9, size=(6, 1))] = 1
    labels = np.eye(3, dtype="float32")[np.arange(6) % 3]
    return {"token_ids": tokens, "padding_mask": tokens != 1}, labels


def speech():
    task = tiny_ctc.ctc_model(time_mask_ratio=0.0, channel_mask_ratio=0.0)
    task.compile()
    return task


def speech_batch():
    """The last has no room for its transcript, and no weight in the mean over four."""
    inputs, labels = tiny_ctc.batch((30, 17, 30, 3))
    labels = np.concatenate([labels, labels[:1]])
    return inputs, labels


def train(build, batch, replicas, **compile_options):
    """Two updates of clipped gradients; returns the model's numbers and every update's loss."""
    with replica_scope(replicas.strategy):
        keras.utils.set_random_seed(0)
        task = build()
        randomize(task.weights, 1)
        model = Supervised(task)
        optimizer = LayerwiseAdamW(
            0.01,
            lr_scales=lr_scales(task, layer_decay=0.7),
            weight_decay=0.1,
            epsilon=1e-3,
            global_clipnorm=0.5,
        )
        optimizer.build(model.trainable_variables)
        model.compile(optimizer, **{"jit_compile": False, **compile_options})
    losses = []
    keep = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda _, logs: losses.append(float(logs["loss"]))
    )
    dataset = replicas.distribute(lambda *_: tf.data.Dataset.from_tensors(batch).repeat())
    model.fit(dataset, steps_per_epoch=2, verbose=0, shuffle=False, callbacks=[keep])
    return [np.asarray(v) for v in [*task.weights, *optimizer.variables]], losses


def difference(one, other):
    """The largest relative difference of losses, and absolute one of all variables."""
    (variables, losses), (expected, expected_losses) = one, other
    in_losses = max(abs(a - b) / abs(b) for a, b in zip(losses, expected_losses, strict=True))
    in_variables = max(np.abs(a - b).max() for a, b in zip(variables, expected, strict=True))
    return float(in_losses), float(in_variables)


def run(folder, name, *starts):
    """A whole run, each of whose starts but the last is stopped at an evaluation."""
    recipe = load_finetune_recipe(
        str(folder / "recipe.yaml"),
        [f"data.source=folder:{folder}/train", f"data.eval_source=folder:{folder}/test"],
    )
    measure = Evaluations.measure

    def stop(self, step):
        measure(self, step)
        raise KeyboardInterrupt

    printed = io.StringIO()
    console = Console(file=printed, width=1000)
    for replicas in starts[:-1]:
        with (
            mock.patch.object(Evaluations, "measure", stop),
            contextlib.suppress(KeyboardInterrupt),
        ):
            finetune(recipe, str(folder / name), console, replicas=replicas)
    task, _ = finetune(recipe, str(folder / name), console, replicas=starts[-1])
    losses = [r["loss"] for r in read_json_lines(folder / name / "metrics.jsonl")]
    return ([np.asarray(v) for v in task.weights], losses), printed.getvalue()


def main(folder):
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    two, one = open_replicas("mirrored"), open_replicas("cpu")
    for name, build, batch, options in (
        ("texts", texts, texts_batch(), {"jit_compile": True}),
        ("speech", speech, speech_batch(), {}),
    ):
        alone = train(build, batch, one)
        report(name, difference(train(build, batch, two, **options), alone))

    write_tree(folder / "train", 16)
    write_tree(folder / "test", 6)
    backbone = Data2VecVisionBackbone(
        image_shape=(16, 16, 3),
        patch_size=4,
        num_layers=2,
        hidden_dim=16,
        num_heads=2,
        intermediate_dim=32,
    )
    backbone.save_to_preset(str(folder / "preset"))
    (folder / "recipe.yaml").write_text(RECIPE.replace("PRESET", f"{folder}/preset"))
    alone, _ = run(folder, "alone", one)
    both, printed = run(folder, "both", two, one, two)
    report("run", [*difference(both, alone), "2 CPUs" in printed, "resuming after" in printed])


def report(name, result):
    print(json.dumps({name: result}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
