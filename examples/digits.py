"""From images that nobody labelled to a model that a server can run: python examples/digits.py.

Scikit-learn's 8 x 8 digits; 1,000 updates take some minutes on a CPU, and labels come in only when
what was learned without them is there.
"""

import sys
from pathlib import Path

import keras
import tensorflow as tf

import d2v_tf
from d2v_tf.config import load_recipe
from d2v_tf.data.vision_sources import open_images
from d2v_tf.training.pretrain import pretrain

RECIPE = Path(__file__).resolve().parent.parent / "configs" / "pretrain" / "vision_tiny.yaml"


def main(folder="runs/example", updates="1000", epochs="10", *settings):
    # Pre-train: leaves a backbone in preset/ and what it looks like in report.html.
    recipe = load_recipe(str(RECIPE), [f"steps={updates}", *settings])
    run = f"{folder}/run"
    backbone = pretrain(recipe, run)

    # Look: one vector an image, and the patches that a patch attends to.
    train, test = open_images("builtin:train"), open_images("builtin:test")
    converter = d2v_tf.load_preprocessing(run)
    images = converter(tf.repeat(train.images, 3, axis=-1))
    hidden = backbone(images[:2])  # [B, 1 + T, D]
    attention = backbone.attention_weights(images[:2])  # one [B, H, 1 + T, 1 + T] a block
    print("features", hidden.shape, "attention", attention[-1].shape)

    # Fine-tune: an ordinary Keras model.
    classifier = d2v_tf.Data2VecImageClassifier(backbone, 10, class_names=train.class_names)
    classifier.compile(
        optimizer=keras.optimizers.AdamW(3e-4),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    examples = tf.data.Dataset.from_tensor_slices((images, train.labels)).shuffle(2_000)
    classifier.fit(examples.batch(64), epochs=int(epochs), shuffle=False, verbose=2)
    held_out = converter(tf.repeat(test.images, 3, axis=-1))
    print("test", classifier.evaluate(held_out, test.labels, verbose=0, return_dict=True))

    # Export: takes encoded images, answers with labels.
    served = d2v_tf.export(classifier, f"{folder}/served", converter, warmup=False)
    ask = tf.saved_model.load(served).signatures["serving_default"]
    picture = tf.io.encode_png(test.images[0]).numpy()
    print("is", test.labels[0], "says", ask(image_bytes=tf.constant([picture]))["label"].numpy())


if __name__ == "__main__":
    main(*sys.argv[1:])
