"""From encoded images to batches of normalised crops with masks."""

import tensorflow as tf

from d2v_tf.data.reading import read_first_good
from d2v_tf.masking import block_mask

# Each kind of draw has a stream of its own: its seed is (recipe's seed, position) plus this.
CROP, FLIP, JITTER, MASK = (stream << 40 for stream in range(1, 5))
# Examples that are read side by side; the order of the results does not depend on it.
PARALLEL_READS = 16


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
    bad_files,
    shuffle=True,
    num_shards=1,
    shard=0,
):
    """Batches for pre-training, without end; a function of (seed, position) alone.

    Args:
        source: from `open_source`.
        image_shape: (int, int, int). Height, width, channels in pixels.
        patch_size: int. Side of a patch in pixels.
        batch_size: int. Examples a batch, of this shard.
        seed: int.
        start: int. Position of the first example; batch n of a run starts at n times the batch.
        num_masked, min_block, max_aspect: of `block_mask`.
        crop_scale: (float, float). Range of the crop's part of the image's area.
        crop_ratio: (float, float). Range of its width over height, before resizing.
        flip: bool. Whether half of the images are mirrored.
        color_jitter: float. Brightness, contrast and saturation change by factors in
            `[1 - color_jitter, 1 + color_jitter]`.
        mean, std: floats per channel, of values in [0, 1].
        bad_files: `BadFiles`.
        shuffle: bool.
        num_shards, shard: ints. Every num_shards-th position, from `start + shard` on.

    Returns:
        A dataset of `{"images": [B, H, W, C] float32, "mask": [B, T] bool}`.
    """
    height, width, _ = image_shape
    grid = (height // patch_size, width // patch_size)

    def view(record, position):
        image = _random_crop(
            record, _seed(seed, position, CROP), image_shape, crop_scale, crop_ratio
        )
        if flip:
            image = tf.image.stateless_random_flip_left_right(image, _seed(seed, position, FLIP))
        return image

    def finish(batch):
        images = batch["image"] / 255.0
        if color_jitter:
            seeds = _seed(seed, batch["position"], JITTER)
            images = _color_jitter(images, seeds, color_jitter)
        mask = block_mask(
            grid,
            _seed(seed, batch["position"], MASK),
            num_masked=num_masked,
            min_block=min_block,
            max_aspect=max_aspect,
        )
        return {
            "images": (images - tf.constant(mean)) / tf.constant(std),
            "mask": tf.reshape(mask, (batch_size, grid[0] * grid[1])),
        }

    records = source.records(start, seed, shuffle, num_shards, shard)
    batches = _read_images(records, view, bad_files).batch(batch_size, drop_remainder=True)
    return batches.map(finish, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def evaluation_dataset(source, *, image_shape, mean, std, batch_size, bad_files, keep=None):
    """Each image once, resized on the shorter side and cut to the center.

    Args:
        source: from `open_source`.
        image_shape: (int, int, int). Height, width, channels in pixels.
        mean, std: floats per channel, of values in [0, 1].
        batch_size: int. The last batch may be smaller.
        bad_files: `BadFiles`; images that cannot be read are left out.
        keep: optional bool array `[N]`, the examples wanted.

    Returns:
        A dataset of (images `[B, H, W, C]` float32, labels `[B]` int64).
    """

    def finish(batch):
        images = (batch["image"] / 255.0 - tf.constant(mean)) / tf.constant(std)
        return images, batch["label"]

    images = _read_images(
        source.once(keep), lambda record, _: _center_crop(_decode(record), image_shape), bad_files
    )
    return images.batch(batch_size).map(finish).prefetch(tf.data.AUTOTUNE)


def _read_images(records, view, bad_files):
    """One dict of `image` (float32, 0 to 255), `label` and `position` for each position."""

    def read(position, candidates):
        return read_first_good(
            candidates,
            lambda record: {
                "image": view(record, position),
                "label": record["label"],
                "position": position,
            },
        )

    return records.interleave(
        read, cycle_length=PARALLEL_READS, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )


def _seed(seed, position, stream):
    """int64 seeds `[2]`, or `[B, 2]`, of one kind of draw."""
    position = tf.cast(position, tf.int64)
    return tf.stack(
        [tf.fill(tf.shape(position), tf.constant(seed, tf.int64)), position + stream], -1
    )


def _decode(record):
    """uint8 `[H, W, 3]`; the first frame of an animation, gray as three equal channels."""
    if "image" in record:
        image = record["image"]
        return tf.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image
    image = tf.io.decode_image(record["encoded"], channels=3, expand_animations=False)
    return tf.ensure_shape(image, (None, None, 3))


def _random_crop(record, seed, image_shape, scale, ratio):
    """A random part of the image, float32 `[H, W, C]`; of a JPEG only that part is decoded."""

    def window(size):
        begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
            size,
            tf.zeros([1, 0, 4]),
            seed,
            aspect_ratio_range=ratio,
            area_range=scale,
            max_attempts=10,
            use_image_if_no_bounding_boxes=True,
        )
        return begin[0], begin[1], extent[0], extent[1]

    def crop_decoded():
        image = _decode(record)
        top, left, height, width = window(tf.shape(image))
        return image[top : top + height, left : left + width]

    def crop_jpeg():
        region = tf.stack(window(tf.io.extract_jpeg_shape(record["encoded"])))
        return tf.io.decode_and_crop_jpeg(record["encoded"], region, channels=3)

    if "image" in record:
        image = crop_decoded()
    else:
        image = tf.cond(tf.io.is_jpeg(record["encoded"]), crop_jpeg, crop_decoded)
    image = tf.image.resize(image, image_shape[:2], method="bilinear", antialias=True)
    return tf.ensure_shape(image, image_shape)


def _center_crop(image, image_shape):
    """The shorter side resized, the longer one cut to the center: float32 `[H, W, C]`."""
    height, width, _ = image_shape
    size = tf.cast(tf.shape(image)[:2], tf.float32)
    factor = tf.reduce_max(tf.constant([height, width], tf.float32) / size)
    size = tf.maximum(tf.cast(tf.round(size * factor), tf.int32), [height, width])
    image = tf.image.resize(image, size, method="bilinear", antialias=True)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return tf.ensure_shape(image[top : top + height, left : left + width], image_shape)


def _color_jitter(images, seeds, strength):
    """Changes brightness, contrast and saturation of each image by factors of its own.

    Args:
        images: float32 `[B, H, W, 3]` in [0, 1].
        seeds: int64 `[B, 2]`.
        strength: float. Factors are uniform in `[1 - strength, 1 + strength]`.
    """
    factors = tf.map_fn(
        lambda seed: tf.random.stateless_uniform([3], seed, 1 - strength, 1 + strength),
        seeds,
        fn_output_signature=tf.TensorSpec([3], tf.float32),
    )
    brightness, contrast, saturation = tf.unstack(factors[:, :, None, None, None], axis=1)
    images = tf.clip_by_value(images * brightness, 0.0, 1.0)
    mean = tf.reduce_mean(tf.image.rgb_to_grayscale(images), axis=(1, 2, 3), keepdims=True)
    images = tf.clip_by_value(mean + (images - mean) * contrast, 0.0, 1.0)
    gray = tf.image.rgb_to_grayscale(images)
    return tf.clip_by_value(gray + (images - gray) * saturation, 0.0, 1.0)
