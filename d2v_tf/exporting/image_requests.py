"""Encoded images in a request, as the backbone's input."""

import numpy as np
import tensorflow as tf

from d2v_tf.backbones.preprocessing import Data2VecImageConverter
from d2v_tf.data.vision import decode
from d2v_tf.exporting.requests import ExportError, Requests, check_each

# What Pillow warns of as a decompression bomb: a small file may promise gigabytes.
MAX_PIXELS = 89_478_485
HEADER = 26  # bytes, in which every format but JPEG says how large the image is


def image_requests(backbone, converter):
    """How a vision model is asked: by JPEG, PNG or BMP files of any size.

    Not by GIF: the size that its header says is not that of the frames, which are all decoded.

    Args:
        backbone: `Data2VecVisionBackbone`.
        converter: `Data2VecImageConverter`.

    Returns:
        list of one `Requests`.

    Raises:
        ExportError: for a backbone whose images have other than 3 channels, or a converter of
            another kind, or one that makes images of another size.
    """
    if not isinstance(converter, Data2VecImageConverter):
        raise ExportError(
            f"A vision model needs a Data2VecImageConverter to be served. Received: {converter}. "
            "Give the folder of a run, which has one, or another folder that has it: "
            "preprocessing, --preprocessing."
        )
    if backbone.image_shape[2] != 3:
        raise ExportError(
            "Encoded images are read as 3 channels, and the model takes "
            f"{backbone.image_shape[2]} (image_shape={backbone.image_shape})."
        )

    size, wanted = converter.image_size, tuple(backbone.image_shape[:2])
    if size is None or tuple(size) != wanted:
        raise ExportError(
            f"The image converter makes images of image_size={size}, and the model takes "
            f"image_shape={backbone.image_shape}. Give a converter with image_size={wanted}."
        )

    def to_image(encoded):
        image = converter(decode({"encoded": encoded})[None])[0]
        return tf.ensure_shape(image, backbone.image_shape)

    def to_inputs(image_bytes):
        with check_readable(image_bytes):
            image_bytes = tf.identity(image_bytes)
        with check_sizes(image_bytes, max(backbone.image_shape[:2])):
            image_bytes = tf.identity(image_bytes)
        return tf.map_fn(
            to_image,
            image_bytes,
            parallel_iterations=1,  # one large image in memory at a time
            fn_output_signature=tf.TensorSpec(backbone.image_shape, tf.float32),
        )

    height, width, _ = backbone.image_shape
    gray = tf.io.encode_jpeg(tf.fill([height, width, 3], tf.constant(127, tf.uint8)))
    return [
        Requests(
            "",
            {"image_bytes": tf.TensorSpec([None], tf.string)},
            to_inputs,
            {"image_bytes": np.array([gray.numpy()], object)},
        )
    ]


def check_readable(image_bytes):
    """Refuses what does not begin like an image: a context for what works on the others.

    Of what it begins with nothing is said: a message that is not UTF-8 would break clients.
    """
    is_image = tf.reduce_any(
        [
            tf.strings.substr(image_bytes, 0, len(magic)) == magic
            for magic in (b"\xff\xd8\xff", b"\x89PNG", b"BM")
        ],
        axis=0,
    )
    return check_each(is_image, "is no JPEG, PNG or BMP")


def check_sizes(image_bytes, side):
    """Refuses images that promise more than `MAX_PIXELS`, before they are decoded.

    As they are, or with their shorter side resized to `side`, as they are before they are cut.
    """
    sides = tf.map_fn(_sides, image_bytes, fn_output_signature=tf.TensorSpec([2], tf.int64))
    pixels = tf.reduce_prod(sides, axis=1)  # sides of 32 bits multiply to what 64 bits hold
    short, long = tf.reduce_min(sides, axis=1), tf.reduce_max(sides, axis=1)
    resized = tf.where(pixels > 0, -(-long // tf.maximum(short, 1)) * side**2, 0)
    pixels = tf.where(resized > MAX_PIXELS, resized, pixels)
    return check_each(
        (pixels > 0) & (pixels <= MAX_PIXELS),
        f"has no pixels or more than {MAX_PIXELS}: {{}}",
        pixels,
    )


def _sides(encoded):
    """int64 `[2]`. Width and height, as the file's header says."""

    def of_jpeg():
        return tf.io.extract_jpeg_shape(encoded, output_type=tf.int32)[:2]

    def of_others():
        start = tf.strings.substr(encoded, 0, HEADER)
        raw = tf.io.decode_raw(start, tf.uint8, fixed_length=HEADER)  # [26], zeros behind the end
        byte = tf.cast(raw, tf.int64)
        kind = tf.strings.substr(encoded, 0, 2)
        # PNG: big-endian from 16 on; BMP: from 18 on, and the height may be negative.
        png = [_number(byte, 19, 15), _number(byte, 23, 19)]
        bmp = [_number(byte, 18, 22), tf.abs(_signed(_number(byte, 22, 26)))]
        return tf.where(kind == b"\x89P", png, bmp)

    return tf.cond(tf.io.is_jpeg(encoded), lambda: tf.cast(of_jpeg(), tf.int64), of_others)


def _number(byte, first, last):
    """The bytes from `first` to `last`, which is left out, the least significant first."""
    step = 1 if last > first else -1
    places = range(first, last, step)
    return tf.add_n([byte[place] * 256**power for power, place in enumerate(places)])


def _signed(number):
    return tf.where(number >= 2**31, number - 2**32, number)
