"""The image pipeline: decoding, crops, augmentation, masks, and files that cannot be read."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from d2v_tf.data import reading
from d2v_tf.data.reading import BadExamples, DataError
from d2v_tf.data.vision import evaluation_dataset, pretraining_dataset
from d2v_tf.data.vision_sources import open_images
from tests.data.images import encode, picture, write_tree

SHAPE = (16, 16, 3)


def train_batches(source, bad=None, **overrides):
    arguments = {
        "image_shape": SHAPE,
        "patch_size": 4,
        "batch_size": 4,
        "seed": 0,
        "start": 0,
        "num_masked": 9,
        "min_block": 4,
        "max_aspect": 1 / 0.3,
        "crop_scale": (0.08, 1.0),
        "crop_ratio": (0.75, 1.333),
        "flip": True,
        "color_jitter": 0.4,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "bad_examples": bad or BadExamples(source.name, source.num_examples),
        **overrides,
    }
    return pretraining_dataset(source, **arguments)


def take(dataset, count):
    return list(dataset.take(count).as_numpy_iterator())


def evaluate(source, bad=None, shape=SHAPE):
    batches = evaluation_dataset(
        source,
        image_shape=shape,
        mean=(0.0, 0.0, 0.0),
        std=(1 / 255, 1 / 255, 1 / 255),  # back to 0 ... 255
        batch_size=3,
        bad_examples=bad or BadExamples(source.name, source.num_examples),
    )
    images, labels = zip(*batches.as_numpy_iterator(), strict=True)
    return np.concatenate(images), np.concatenate(labels)


@pytest.fixture
def photos(tmp_path):
    write_tree(tmp_path / "photos", 10)
    return tmp_path / "photos"


def test_batches_have_static_shapes_and_known_ranges(photos):
    dataset = train_batches(open_images(f"folder:{photos}"))
    assert dataset.element_spec["images"].shape == (4, *SHAPE)
    assert dataset.element_spec["mask"].shape == (4, 16)
    batch = take(dataset, 1)[0]
    assert batch["images"].dtype == np.float32 and batch["mask"].dtype == bool
    assert batch["images"].min() >= -1.0 and batch["images"].max() <= 1.0
    assert batch["images"].std() > 0.1
    assert (0 < batch["mask"].sum(1)).all() and (batch["mask"].sum(1) <= 9).all()


def test_equal_seeds_give_equal_batches_and_a_later_start_continues(photos):
    source = open_images(f"folder:{photos}")
    whole = take(train_batches(source), 8)  # past three epochs of ten
    for one, other in zip(whole, take(train_batches(source), 8), strict=True):
        np.testing.assert_array_equal(one["images"], other["images"])
        np.testing.assert_array_equal(one["mask"], other["mask"])
    for one, other in zip(whole[3:], take(train_batches(source, start=12), 5), strict=True):
        np.testing.assert_array_equal(one["images"], other["images"])
        np.testing.assert_array_equal(one["mask"], other["mask"])
    other = take(train_batches(source, seed=1), 1)[0]
    assert np.abs(other["images"] - whole[0]["images"]).max() > 0.1
    assert (other["mask"] != whole[0]["mask"]).any()


def test_an_example_is_the_same_whatever_its_batch(photos):
    source = open_images(f"folder:{photos}")
    large = take(train_batches(source, batch_size=8), 1)[0]
    small = take(train_batches(source, batch_size=2), 4)
    for name in ("images", "mask"):
        together = np.concatenate([batch[name] for batch in small])
        np.testing.assert_array_equal(large[name], together)
    shards = [take(train_batches(source, num_shards=2, shard=i), 1)[0] for i in range(2)]
    for i, shard in enumerate(shards):
        np.testing.assert_array_equal(shard["images"], large["images"][i::2])


def test_the_same_example_is_seen_anew_in_the_next_epoch(photos):
    source = open_images(f"folder:{photos}")
    first, second = take(train_batches(source, batch_size=10, shuffle=False), 2)
    assert (np.abs(first["images"] - second["images"]).max(axis=(1, 2, 3)) > 0.05).all()
    assert (first["mask"] != second["mask"]).any(axis=1).sum() >= 9


def test_without_augmentation_the_image_comes_through(tmp_path):
    (tmp_path / "a.png").write_bytes(encode(picture(1, 16, 16)))
    source = open_images(f"folder:{tmp_path}")
    batch = take(
        train_batches(
            source,
            batch_size=1,
            crop_scale=(1.0, 1.0),
            crop_ratio=(1.0, 1.0),
            flip=False,
            color_jitter=0.0,
        ),
        1,
    )[0]
    expected = picture(1, 16, 16) / 255 / 0.5 - 1
    np.testing.assert_allclose(batch["images"][0], expected, atol=1e-5)


def test_flips_half_of_the_images(tmp_path):
    (tmp_path / "a.png").write_bytes(encode(picture(1, 16, 16)))
    source = open_images(f"folder:{tmp_path}")
    options = {"crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0), "color_jitter": 0.0}
    images = take(train_batches(source, batch_size=400, **options), 1)[0]["images"]
    image = picture(1, 16, 16) / 255 / 0.5 - 1
    straight = np.abs(images - image).max(axis=(1, 2, 3)) < 1e-4
    mirrored = np.abs(images - image[:, ::-1]).max(axis=(1, 2, 3)) < 1e-4
    assert (straight | mirrored).all()
    assert abs(mirrored.mean() - 0.5) < 4 * 0.5 / np.sqrt(400)


def test_crops_cover_the_areas_asked_for(tmp_path):
    # Red grows downwards and green to the right, so a crop shows its own corners.
    rows, columns = np.mgrid[0:200, 0:200]
    ramp = np.stack([rows, columns, 0 * rows], axis=-1).astype("uint8")
    (tmp_path / "a.png").write_bytes(encode(ramp))
    source = open_images(f"folder:{tmp_path}")
    options = {"flip": False, "color_jitter": 0.0, "crop_scale": (0.25, 0.75)}
    images = take(train_batches(source, batch_size=500, **options), 1)[0]["images"]
    pixels = (images + 1) * 127.5
    extent = pixels.max(axis=(1, 2)) - pixels.min(axis=(1, 2))
    heights, widths = extent[:, 0] * 16 / 15, extent[:, 1] * 16 / 15  # centers to borders
    areas = heights * widths / 200**2
    assert 0.22 < areas.min() < 0.32 and 0.68 < areas.max() < 0.78
    # Elongated large crops do not fit and are drawn again, which favours smaller ones.
    assert 0.42 < areas.mean() < 0.5
    ratios = widths / heights
    assert 0.7 < ratios.min() < 0.85 and 1.2 < ratios.max() < 1.4


def test_color_jitter_changes_what_it_names(tmp_path):
    (tmp_path / "a.png").write_bytes(encode(picture(1, 16, 16) // 2 + 64))
    source = open_images(f"folder:{tmp_path}")
    options = {"crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0), "flip": False}
    plain = take(train_batches(source, batch_size=1, color_jitter=0.0, **options), 1)[0]["images"]
    images = take(train_batches(source, batch_size=300, color_jitter=0.3, **options), 1)[0][
        "images"
    ]
    brightness = (images.mean(axis=(1, 2, 3)) + 1) / (plain.mean() + 1)
    assert 0.65 < brightness.min() < 0.8 and 1.2 < brightness.max() < 1.35
    saturation = (images.max(-1) - images.min(-1)).mean(axis=(1, 2))
    saturation /= (plain.max(-1) - plain.min(-1)).mean()
    assert saturation.min() < 0.7 and saturation.max() > 1.3


def test_jpeg_crops_equal_crops_of_the_decoded_image(tmp_path):
    image = picture(3, 64, 64)
    jpeg, png = tmp_path / "jpeg", tmp_path / "png"
    for folder, data in (
        (jpeg, encode(image, "JPEG", quality=95)),
        (png, encode(np.asarray(Image.open(io.BytesIO(encode(image, "JPEG", quality=95)))))),
    ):
        folder.mkdir()
        (folder / "a.img").write_bytes(data)
        (folder / "a.img").rename(folder / ("a.jpg" if folder == jpeg else "a.png"))
    one, other = (
        take(train_batches(open_images(f"folder:{f}"), batch_size=8), 1)[0]["images"]
        for f in (jpeg, png)
    )
    # Chroma is interpolated within the crop only, which its border shows.
    assert np.abs(one - other).mean() < 0.02


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jpg", encode(picture(5), "JPEG", quality=100, subsampling=0)),
        ("a.png", encode(picture(5))),
        ("a.bmp", encode(picture(5), "BMP")),
        ("alpha.png", encode(np.dstack([picture(5), picture(6)[..., :1]]))),
        ("UPPER.PNG", encode(picture(5))),
    ],
)
def test_formats_give_the_same_pixels(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    images, labels = evaluate(open_images(f"folder:{tmp_path}"), shape=(40, 48, 3))
    assert np.abs(images[0] - picture(5)).max() <= (15 if name.endswith("jpg") else 0.01)
    assert labels.tolist() == [-1]


def test_gray_sixteen_bit_and_animated_images(tmp_path):
    gray = picture(5, channels=1)
    (tmp_path / "a_gray.png").write_bytes(encode(gray))
    deep = io.BytesIO()
    Image.fromarray(gray[..., 0].astype("uint16") * 257).save(deep, "PNG")
    (tmp_path / "b_deep.png").write_bytes(deep.getvalue())
    frames = [Image.fromarray(np.full((40, 48), v, "uint8")) for v in (50, 200)]
    animation = io.BytesIO()
    frames[0].save(animation, "GIF", save_all=True, append_images=frames[1:])
    (tmp_path / "c_animated.gif").write_bytes(animation.getvalue())
    images, _ = evaluate(open_images(f"folder:{tmp_path}"), shape=(40, 48, 3))
    for i in range(2):
        np.testing.assert_allclose(images[i], np.repeat(gray, 3, axis=-1), atol=1.01)
    np.testing.assert_allclose(images[2], 50, atol=1)


def test_evaluation_resizes_the_shorter_side_and_cuts_the_center(tmp_path):
    image = picture(7, 60, 90)
    (tmp_path / "a.png").write_bytes(encode(image))
    got = evaluate(open_images(f"folder:{tmp_path}"), shape=(30, 30, 3))[0][0]
    small = np.asarray(Image.fromarray(image).resize((45, 30), Image.BILINEAR), "float32")
    assert np.abs(got - small[:, 7:37]).max() < 2  # PIL rounds to integers on the way


def corrupt(path, how):
    data = path.read_bytes()
    path.write_bytes({"empty": b"", "truncated": data[: len(data) // 3], "text": b"hello"}[how])


@pytest.mark.parametrize("how", ["empty", "truncated", "text"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_bad_file_is_named_counted_and_replaced(tmp_path, how, kind):
    paths = write_tree(tmp_path, 10, kind=kind)
    source = open_images(f"folder:{tmp_path}")
    clean = take(train_batches(source, batch_size=10), 2)
    corrupt(paths[4], how)
    lines = []
    bad = BadExamples(source.name, 10, max_bad=0.1, warn=lines.append)
    batches = take(train_batches(source, bad, batch_size=10), 2)
    assert bad.count == 1 and len(lines) == 1 and bad.error is None
    start = f"{paths[4]} is skipped: "
    assert lines[0].startswith(start) and len(lines[0]) > len(start) + 5  # and why
    for one, other in zip(clean, batches, strict=True):
        changed = np.abs(one["images"] - other["images"]).max(axis=(1, 2, 3)) > 0
        assert changed.sum() == 1  # only the bad one's place has another image
        np.testing.assert_array_equal(one["mask"], other["mask"])
    again = take(train_batches(source, BadExamples("x", 10, 0.1, str), batch_size=10), 2)
    np.testing.assert_array_equal(again[1]["images"], batches[1]["images"])


def test_a_file_of_which_nothing_can_be_read_is_named_too(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "PAUSES", (0.0, 0.0))
    paths = write_tree(tmp_path, 10)
    source = open_images(f"folder:{tmp_path}")
    paths[4].unlink()
    paths[4].symlink_to(paths[4])  # a loop: root may read what nobody else may
    lines = []
    take(train_batches(source, BadExamples("x", 10, 0.1, lines.append), batch_size=10), 1)
    (line,) = lines
    assert line.startswith(f"{paths[4]} is skipped: ") and "record" not in line


def test_too_many_bad_files_stop_the_run(tmp_path):
    paths = write_tree(tmp_path, 20)
    for path in paths[:3]:
        corrupt(path, "text")
    source = open_images(f"folder:{tmp_path}")
    bad = BadExamples(source.name, 20, max_bad=0.1, warn=lambda line: None)
    with pytest.raises(tf.errors.OpError):
        take(train_batches(source, bad, batch_size=20), 1)
    assert isinstance(bad.error, DataError)
    message = str(bad.error)
    assert f"3 of 20 examples of folder:{tmp_path} could not be read (first: {tmp_path}" in message
    assert "at most 10% may" in message and "--set data.max_bad" in message


def test_nothing_but_bad_files_is_an_error_too(tmp_path):
    for path in write_tree(tmp_path, 2):
        corrupt(path, "empty")
    source = open_images(f"folder:{tmp_path}")
    bad = BadExamples(source.name, 2, max_bad=1.0, warn=lambda line: None)
    with pytest.raises(tf.errors.OpError):
        take(train_batches(source, bad, batch_size=2), 1)
    assert "examples of folder" in str(bad.error)


def test_a_file_that_went_away_is_a_bad_one(tmp_path):
    paths = write_tree(tmp_path, 10)
    source = open_images(f"folder:{tmp_path}")
    paths[0].unlink()
    bad = BadExamples(source.name, 10, max_bad=0.1, warn=lambda line: None)
    take(train_batches(source, bad, batch_size=10), 1)
    assert bad.count == 1


def test_evaluation_leaves_bad_files_out(tmp_path):
    paths = write_tree(tmp_path, 6)
    corrupt(paths[2], "text")
    source = open_images(f"folder:{tmp_path}")
    bad = BadExamples(source.name, 6, max_bad=0.5, warn=lambda line: None)
    images, labels = evaluate(source, bad)
    assert len(images) == 5 and bad.count == 1
    assert labels.tolist() == np.delete(source.labels, 2).tolist()


def test_bad_records_are_told_apart_and_replaced_by_their_followers(tmp_path):
    with tf.io.TFRecordWriter(str(tmp_path / "part")) as writer:
        for i in range(12):
            encoded = b"broken %d" % i if i in (3, 7) else encode(picture(i, 16, 16))
            feature = {"image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[encoded]))}
            example = tf.train.Example(features=tf.train.Features(feature=feature))
            writer.write(example.SerializeToString())
    source = open_images(f"tfrecord:{tmp_path}/part")
    bad = BadExamples(source.name, 12, max_bad=0.2, warn=lambda line: None)
    batch = take(
        train_batches(
            source,
            bad,
            batch_size=12,
            shuffle=False,
            crop_scale=(1.0, 1.0),
            crop_ratio=(1.0, 1.0),
            flip=False,
            color_jitter=0.0,
        ),
        1,
    )[0]
    assert bad.count == 2
    for place, expected in ((2, 2), (3, 4), (4, 4), (7, 8), (11, 11)):
        np.testing.assert_allclose(
            (batch["images"][place] + 1) * 127.5, picture(expected, 16, 16), atol=0.01
        )
