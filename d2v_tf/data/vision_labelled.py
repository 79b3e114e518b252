"""From labelled images to batches for training and evaluating a classifier."""

import keras
import tensorflow as tf

from d2v_tf.data import vision
from d2v_tf.data.keras_layers import StatelessSeeds, pipeline_layer
from d2v_tf.data.labels import check_label, class_numbers
from d2v_tf.data.mixing import ImageMixer
from d2v_tf.data.no_autograph import no_autograph
from d2v_tf.data.rand_augment import RandAugment
from d2v_tf.data.reading import read_examples
from d2v_tf.data.seeds import stream_seed

# The streams of `stream_seed`, beside those of `vision`.
AUGMENT, ERASE, MIX = (stream << 40 for stream in range(5, 8))


@no_autograph
def training_dataset(
    source,
    *,
    class_names,
    image_shape,
    batch_size,
    seed,
    start,
    mean,
    std,
    bad_examples,
    crop_scale=(0.08, 1.0),
    crop_ratio=(3 / 4, 4 / 3),
    flip=True,
    color_jitter=0.0,
    rand_augment=(2, 9.0),
    erasing=0.25,
    mixup=0.8,
    cutmix=1.0,
    shuffle=True,
    num_shards=1,
    shard=0,
):
    """Batches for training a classifier, without end; a function of (seed, position) alone.

    In this order: random crop, mirror image, color jitter, RandAugment, normalization, random
    erasing, and mixup or CutMix. All but the last are of an example alone, the same in whatever
    batch it is; mixing is of a batch, drawn from the position of its first example. Defaults are
    BEiT's and data2vec's for ImageNet. Label smoothing is the loss's.

    Args:
        source: from `open_images`, with labels.
        class_names: sequence of C str, from `labels.find_classes`.
        image_shape: (int, int, 3). Height, width, channels in pixels.
        batch_size: int. Examples a batch, of this shard.
        seed: int.
        start: int. Position of the first example; batch n of a run starts at n times the batch.
        mean, std: floats per channel, of values in [0, 1].
        bad_examples: `BadExamples`; an image without a label is one.
        crop_scale: (float, float). Range of the crop's part of the image's area, uniform.
        crop_ratio: (float, float). Range of its width over height, log-uniform.
        flip: bool. Whether half of the images are mirrored.
        color_jitter: float. As for `vision.pretraining_dataset`; 0 = none.
        rand_augment: optional (int, float). Operations an image, and their magnitude in [0, 10].
        erasing: float. The part of the images of which a box is filled with noise (arXiv
            1708.04896): 2 to 33% of the area, the noise as strong as the pixels'.
        mixup, cutmix: floats. Alphas, as for `ImageMixer`; 0 = none.
        shuffle: bool.
        num_shards, shard: ints. Every num_shards-th position, from `start + shard` on.

    Returns:
        A dataset of (images `[B, H, W, C]` float32, labels `[B, C]` float32).

    Raises:
        DataError: where the source has no labels, or classes of its own.
    """
    numbers = class_numbers(source, class_names, warn=bad_examples.warn)
    encode = _encoder(numbers, len(class_names))
    augment = RandAugment(*rand_augment) if rand_augment else None
    erase = _eraser(erasing, mean, std) if erasing else None
    mix = ImageMixer(mixup, cutmix)

    def view(example, position):
        check_label(example["label"], len(numbers))
        seeds = [stream_seed(seed, position, stream) for stream in (vision.CROP, vision.FLIP)]
        image = vision.random_crop(example, seeds[0], image_shape, crop_scale, crop_ratio)
        if flip:
            image = tf.image.stateless_random_flip_left_right(image, seeds[1])
        return {"image": image, "label": example["label"]}

    def change(image, position):
        if augment is not None:
            image = augment(image, stream_seed(seed, position, AUGMENT))
        if erase is not None:
            image = erase(image, stream_seed(seed, position, ERASE))
        return image

    def finish(batch):
        images, positions = batch["image"], batch["position"]
        if color_jitter:
            seeds = stream_seed(seed, positions, vision.JITTER)
            images = vision.jitter_colors(images, seeds, color_jitter)
        if augment is not None or erase is not None:
            images = tf.map_fn(
                lambda pair: change(*pair),
                (images, positions),
                fn_output_signature=tf.TensorSpec(image_shape, tf.float32),
            )
        images = vision.normalize(images, mean, std)
        labels = encode(batch["label"])
        images, labels = mix(images, labels, stream_seed(seed, positions[0], MIX))
        shape = (batch_size, *image_shape)
        return tf.ensure_shape(images, shape), tf.ensure_shape(
            labels, (batch_size, labels.shape[1])
        )

    records = source.records(start, seed, shuffle, num_shards, shard)
    batches = read_examples(
        records, source.load, view, bad_examples, batch_size, drop_remainder=True
    )
    return batches.map(finish, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


@no_autograph
def evaluation_dataset(
    source, *, class_names, image_shape, mean, std, batch_size, bad_examples, keep=None
):
    """Each image once, resized on the shorter side and cut to the center, with its class.

    Args:
        class_names: sequence of C str, the model's; the source's classes are found by name.
        source, image_shape, mean, std, batch_size, bad_examples, keep: as for
            `vision.evaluation_dataset`.

    Returns:
        A dataset of (images `[B, H, W, C]` float32, labels `[B, C]` float32, one-hot).

    Raises:
        DataError: where the source has no labels, or a class that the model lacks.
    """
    numbers = class_numbers(source, class_names, warn=bad_examples.warn)
    encode = _encoder(numbers, len(class_names))
    batches = vision.evaluation_dataset(
        source,
        image_shape=image_shape,
        mean=mean,
        std=std,
        batch_size=batch_size,
        bad_examples=bad_examples,
        keep=keep,
        num_classes=len(numbers),
    )
    return batches.map(lambda images, labels: (images, encode(labels)))


def _encoder(numbers, num_classes):
    """A function of a source's labels int64 `[B]` to the model's, one-hot float32 `[B, C]`."""
    numbers = tf.constant(numbers)
    return lambda labels: tf.one_hot(tf.gather(numbers, labels), num_classes)


def _eraser(probability, mean, std):
    """A function of (image float32 `[H, W, C]` in [0, 255], seed) that may erase a box of it."""
    # A single number would be the highest of the probabilities. The noise is replaced: the layer's
    # own has half of its values at zero and a sixth at the top.
    layer = pipeline_layer(
        keras.layers.RandomErasing, factor=(probability, probability), fill_value=0.0
    )

    def erase(image, seed):
        seeds = StatelessSeeds(seed)
        drawn = layer.get_random_transformation(image, seed=seeds)

        def erased():
            noise = tf.random.stateless_normal(tf.shape(image), seeds.next())
            fill = 255 * (tf.constant(mean) + tf.constant(std) * noise)
            return layer.transform_single_image(image, {**drawn, "fill_value": fill})

        return tf.cond(drawn["apply_erasing"][0], erased, lambda: image)

    return erase
