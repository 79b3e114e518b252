"""From encoded images to batches of normalised crops with masks."""

import math

import tensorflow as tf

from d2v_tf.data.labels import check_label
from d2v_tf.data.no_autograph import no_autograph
from d2v_tf.data.reading import read_examples
from d2v_tf.data.seeds import stream_seed
from d2v_tf.masking import block_mask

# The streams of `stream_seed`, one for each kind of draw.
CROP, FLIP, JITTER, MASK = (stream << 40 for stream in range(1, 5))
# A window that does not fit the image is drawn again; after ten draws it is the center.
CROP_ATTEMPTS = 10


@no_autograph
def pretraining_dataset(
    source,
    *,
    image_shape,
    patch_size,
    batch_size,
    seed,
    start,
    num_masked,
    min_block,
    max_aspect,
    crop_scale,
    crop_ratio,
    flip,
    color_jitter,
    mean,
    std,
    bad_examples,
    shuffle=True,
    num_shards=1,
    shard=0,
):
    """Batches for pre-training, without end; a function of (seed, position) alone.

    Args:
        source: from `open_images`.
        image_shape: (int, int, int). Height, width, channels in pixels.
        patch_size: int. Side of a patch in pixels.
        batch_size: int. Examples a batch, of this shard.
        seed: int.
        start: int. Position of the first example; batch n of a run starts at n times the batch.
        num_masked, min_block, max_aspect: of `block_mask`.
        crop_scale: (float, float). Range of the crop's part of the image's area, uniform.
        crop_ratio: (float, float). Range of its width over height, log-uniform.
        flip: bool. Whether half of the images are mirrored.
        color_jitter: float. Brightness, contrast and saturation change by factors in
            `[1 - color_jitter, 1 + color_jitter]`.
        mean, std: floats per channel, of values in [0, 1].
        bad_examples: `BadExamples`.
        shuffle: bool.
        num_shards, shard: ints. Every num_shards-th position, from `start + shard` on.

    Returns:
        A dataset of `{"images": [B, H, W, C] float32, "mask": [B, T] bool}`.
    """
    height, width, _ = image_shape
    grid = (height // patch_size, width // patch_size)

    def view(example, position):
        seeds = stream_seed(seed, position, CROP), stream_seed(seed, position, FLIP)
        image = random_crop(example, seeds[0], image_shape, crop_scale, crop_ratio)
        if flip:
            image = tf.image.stateless_random_flip_left_right(image, seeds[1])
        return {"image": image}

    def finish(batch):
        images = batch["image"]
        if color_jitter:
            seeds = stream_seed(seed, batch["position"], JITTER)
            images = jitter_colors(images, seeds, color_jitter)
        mask = block_mask(
            grid,
            stream_seed(seed, batch["position"], MASK),
            num_masked=num_masked,
            min_block=min_block,
            max_aspect=max_aspect,
        )
        return {
            "images": normalize(images, mean, std),
            "mask": tf.reshape(mask, (batch_size, grid[0] * grid[1])),
        }

    records = source.records(start, seed, shuffle, num_shards, shard)
    batches = read_examples(
        records, source.load, view, bad_examples, batch_size, drop_remainder=True
    )
    return batches.map(finish, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


@no_autograph
def evaluation_dataset(
    source, *, image_shape, mean, std, batch_size, bad_examples, keep=None, num_classes=None
):
    """Each image once, resized on the shorter side and cut to the center.

    Args:
        source: from `open_images`.
        image_shape: (int, int, int). Height, width, channels in pixels.
        mean, std: floats per channel, of values in [0, 1].
        batch_size: int. The last batch may be smaller.
        bad_examples: `BadExamples`; images that cannot be read are left out.
        keep: optional bool array `[N]`, the examples wanted.
        num_classes: optional int. Images with labels outside of [0, num_classes) are then bad ones.

    Returns:
        A dataset of (images `[B, H, W, C]` float32, labels `[B]` int64).
    """

    def finish(batch):
        return normalize(batch["image"], mean, std), batch["label"]

    def view(example, _):
        if num_classes is not None:
            check_label(example["label"], num_classes)
        return {"image": _center_crop(decode(example), image_shape), "label": example["label"]}

    batches = read_examples(source.once(keep), source.load, view, bad_examples, batch_size)
    return batches.map(finish).prefetch(tf.data.AUTOTUNE)


def decode(example):
    """uint8 `[H, W, 3]`; the first frame of an animation, gray as three equal channels."""
    if "image" in example:
        image = example["image"]
        return tf.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image
    image = tf.io.decode_image(example["encoded"], channels=3, expand_animations=False)
    return tf.ensure_shape(image, (None, None, 3))


def random_crop(example, seed, image_shape, scale, ratio):
    """A random part of the image, float32 `[H, W, C]`; of a JPEG only that part is decoded."""

    def crop_decoded():
        image = decode(example)
        top, left, height, width = tf.unstack(random_window(tf.shape(image), seed, scale, ratio))
        return image[top : top + height, left : left + width]

    def crop_jpeg():
        size = tf.io.extract_jpeg_shape(example["encoded"])
        window = random_window(size, seed, scale, ratio)
        return tf.io.decode_and_crop_jpeg(example["encoded"], window, channels=3)

    if "image" in example:
        image = crop_decoded()
    else:
        image = tf.cond(tf.io.is_jpeg(example["encoded"]), crop_jpeg, crop_decoded)
    return tf.ensure_shape(_resize(image, image_shape[:2]), image_shape)


def random_window(size, seed, scale, ratio):
    """A random part of an image: its share of the area uniform, its ratio log-uniform.

    As torchvision's `RandomResizedCrop`; `tf.image`'s sampler draws heights, not areas, uniformly.

    Args:
        size: int32 `[2]` or more: height, width, in pixels.
        seed: int64 `[2]`.
        scale, ratio: (float, float). Ranges of the share, and of width over height.

    Returns:
        int32 `[4]`: top, left, height, width, in pixels.
    """
    height, width = tf.cast(size[0], tf.float32), tf.cast(size[1], tf.float32)
    draws = tf.random.stateless_uniform([4, CROP_ATTEMPTS], seed)
    areas = (scale[0] + draws[0] * (scale[1] - scale[0])) * height * width
    low, high = math.log(ratio[0]), math.log(ratio[1])
    ratios = tf.exp(low + draws[1] * (high - low))
    # Drawn windows as columns; the last, which always fits, is for when none of them does.
    center_ratio = tf.clip_by_value(width / height, ratio[0], ratio[1])
    widths = tf.concat([tf.sqrt(areas * ratios), [tf.minimum(width, height * center_ratio)]], 0)
    heights = tf.concat([tf.sqrt(areas / ratios), [tf.minimum(height, width / center_ratio)]], 0)
    extents = tf.maximum(tf.round(tf.stack([heights, widths])), 1.0)
    room = tf.stack([height, width])[:, None] - extents
    first = tf.argmax(tf.reduce_min(room, axis=0) >= 0.0)
    extent, room = extents[:, first], room[:, first]
    places = tf.concat([draws[2:], [[0.5], [0.5]]], axis=1)[:, first]
    return tf.cast(tf.concat([tf.floor(places * (room + 1.0)), extent], 0), tf.int32)


def _center_crop(image, image_shape):
    """The shorter side resized, the longer one cut to the center: float32 `[H, W, C]`."""
    height, width, _ = image_shape
    rows, columns = tf.unstack(tf.shape(image)[:2])
    # In whole numbers, as a preset's converter does it: (2 a + b) // (2 b) rounds a / b.
    whole = (
        (2 * rows * width + columns) // (2 * columns),
        (2 * columns * height + rows) // (2 * rows),
    )
    size = tf.maximum(tf.stack(whole), [height, width])
    image = _resize(image, size)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return tf.ensure_shape(image[top : top + height, left : left + width], image_shape)


def _resize(image, size):
    """Bilinear, float32 `[H, W, C]`; with an antialiasing filter, which only shrinking needs."""
    return tf.cond(
        tf.reduce_any(tf.shape(image)[:2] > size),
        lambda: tf.image.resize(image, size, antialias=True),
        lambda: tf.image.resize(image, size),  # five times as fast
    )


def normalize(images, mean, std):
    """From [0, 255] to a distance from `mean` in units of `std`, both of values in [0, 1]."""
    mean, std = tf.constant(mean), tf.constant(std)
    return images * (1 / (255 * std)) - mean / std


def jitter_colors(images, seeds, strength):
    """Changes brightness, contrast and saturation of each image by factors of its own.

    The three, in this order, are one linear map of the colors: contrast is about the image's mean
    gray, saturation about each pixel's gray. Values are clipped once, at the end.

    Args:
        images: float32 `[B, H, W, 3]` in [0, 255].
        seeds: int64 `[B, 2]`.
        strength: float. Factors are uniform in `[1 - strength, 1 + strength]`.
    """
    factors = tf.map_fn(
        lambda seed: tf.random.stateless_uniform([3], seed, 1 - strength, 1 + strength),
        seeds,
        fn_output_signature=tf.TensorSpec([3], tf.float32),
    )
    brightness, contrast, saturation = tf.unstack(factors[:, :, None, None], axis=1)
    gray = tf.constant([[0.299], [0.587], [0.114]])  # weights of ITU-R BT.601
    mean = tf.reduce_mean(images, axis=(1, 2))[:, None] @ gray * brightness  # [B, 1, 1]
    to_gray = tf.repeat(gray, 3, axis=1)  # [3, 3]: a pixel's gray in every channel
    saturate = saturation * tf.eye(3) + (1 - saturation) * to_gray  # [B, 3, 3]
    shape = tf.shape(images)
    pixels = tf.reshape(images, (shape[0], -1, 3)) @ (brightness * contrast * saturate)
    pixels = tf.clip_by_value(pixels + (1 - contrast) * mean, 0.0, 255.0)
    return tf.reshape(pixels, shape)
