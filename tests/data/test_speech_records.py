"""Sources of speech in TFRecord files: ours, and TFDS's own."""

import io

import numpy as np
import pytest
import soundfile
import tensorflow as tf

from d2v_tf.data.reading import DataError
from d2v_tf.data.speech_records import _tfds_parser, serialize_utterance
from d2v_tf.data.speech_sources import open_speech_source
from tests.data.audio import noise, tone

SECONDS = [0.5, 0.75, 1.0, 0.6]


def examples_of(source):
    return [source.load(record["candidates"][0]) for record in source.once()]


def write_records(path, records):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)


def test_our_records_come_back(tmp_path):
    waves = [noise(i, s) for i, s in enumerate(SECONDS)]
    records = [
        serialize_utterance(w, f"utterance {i}", f"text {i}", "ann", i % 2)
        for i, w in enumerate(waves)
    ]
    write_records(tmp_path / "a-0", records[:3])
    write_records(tmp_path / "a-1", records[3:])
    source = open_speech_source(f"tfrecord:{tmp_path}/a-*")
    assert source.num_examples == 4 and source.has_labels
    for i, (example, wave) in enumerate(zip(examples_of(source), waves, strict=True)):
        np.testing.assert_array_equal(example["waveform"], wave)
        assert example["name"].numpy().decode() == f"utterance {i}"
        assert example["text"].numpy().decode() == f"text {i}"
        assert int(example["label"]) == i % 2


def test_loud_samples_are_cut_and_other_rates_resampled(tmp_path):
    record = tf.train.Example.FromString(
        serialize_utterance(np.array([2.0, -2.0, 0.5], "float32"), "loud")
    )
    pcm = record.features.feature["audio/pcm"].bytes_list.value[0]
    assert np.frombuffer(pcm, "<i2").tolist() == [32767, -32768, 16384]
    samples = np.round(tone(1000, 1.0, 8000) * 32768).astype("<i2")
    record.features.feature["audio/pcm"].bytes_list.value[0] = samples.tobytes()
    record.features.feature["audio/rate"].int64_list.value[0] = 8000
    write_records(tmp_path / "a", [record.SerializeToString()])
    source = open_speech_source(f"tfrecord:{tmp_path}/a")
    assert not source.has_labels
    wave = examples_of(source)[0]["waveform"].numpy()
    np.testing.assert_allclose(wave[200:-200], tone(1000, 1.0)[200:-200], atol=0.01)


def test_records_of_something_else_are_refused(tmp_path):
    feature = {"image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"x"]))}
    example = tf.train.Example(features=tf.train.Features(feature=feature))
    write_records(tmp_path / "a", [example.SerializeToString()])
    with pytest.raises(DataError, match="has no 'audio/pcm' in its first record. .*prepare.py"):
        open_speech_source(f"tfrecord:{tmp_path}/a")


def prepare_tfds(folder, name, features, examples, **signature):
    """A dataset written by TFDS's own writer."""
    import tensorflow_datasets as tfds

    tfds.dataset_builders.store_as_tfds_dataset(
        name=name,
        version="1.0.0",
        features=tfds.features.FeaturesDict(features),
        split_datasets={
            "train": tf.data.Dataset.from_generator(
                lambda: iter(examples), output_signature=signature
            )
        },
        data_dir=str(folder),
    )


def test_tfds_in_librispeechs_layout(tmp_path):
    import tensorflow_datasets as tfds

    waves = [np.round(noise(i, s) * 32768).astype("int16") for i, s in enumerate(SECONDS)]
    prepare_tfds(
        tmp_path,
        "readings",
        {
            "speech": tfds.features.Audio(sample_rate=16_000, dtype=np.int16),
            "text": tfds.features.Text(),
            "speaker_id": np.int64,
            "chapter_id": np.int64,
            "id": np.str_,
        },
        [
            {
                "speech": w,
                "text": f"text {i}",
                "speaker_id": 100 + i,
                "chapter_id": 1,
                "id": f"u{i}",
            }
            for i, w in enumerate(waves)
        ],
        speech=tf.TensorSpec((None,), tf.int16),
        text=tf.TensorSpec((), tf.string),
        speaker_id=tf.TensorSpec((), tf.int64),
        chapter_id=tf.TensorSpec((), tf.int64),
        id=tf.TensorSpec((), tf.string),
    )
    source = open_speech_source("tfds:readings:train[1:]", tfds_dir=str(tmp_path))
    assert source.num_examples == 3 and source.has_labels and source.class_names is None
    names = set()
    for example in examples_of(source):  # in TFDS's order
        i = int(example["label"]) - 100
        np.testing.assert_array_equal(example["waveform"], noise(i, SECONDS[i]))
        assert example["text"].numpy().decode() == f"text {i}"
        assert example["name"].numpy().decode() == f"u{i}"
        names.add(i)
    assert len(names) == 3
    with pytest.raises(DataError, match="has no split 'dev'; it has train"):
        open_speech_source("tfds:readings:dev", tfds_dir=str(tmp_path))


def test_tfds_of_another_rate_in_stereo_with_classes(tmp_path):
    import tensorflow_datasets as tfds

    stereo = np.round(tone(1000, 1.0, 8000, channels=2) * 32768).astype("int64")
    prepare_tfds(
        tmp_path,
        "words",
        {
            "audio": tfds.features.Audio(sample_rate=8_000, shape=(None, 2)),
            "label": tfds.features.ClassLabel(names=["no", "yes"]),
        },
        [{"audio": stereo, "label": 1}],
        audio=tf.TensorSpec((None, 2), tf.int64),
        label=tf.TensorSpec((), tf.int64),
    )
    source = open_speech_source("tfds:words", tfds_dir=str(tmp_path))
    assert source.class_names == ("no", "yes")
    (example,) = examples_of(source)
    np.testing.assert_allclose(example["waveform"][200:-200], tone(1000, 1.0)[200:-200], atol=0.01)
    assert int(example["label"]) == 1 and "tfds:words" in example["name"].numpy().decode()


def test_tfds_that_kept_the_files_encoded():
    import tensorflow_datasets as tfds

    features = tfds.features.FeaturesDict(
        {"audio": tfds.features.Audio(sample_rate=16_000, file_format="wav", lazy_decode=True)}
    )
    file = io.BytesIO()
    soundfile.write(file, noise(1, 0.5), 16_000, format="WAV")
    file.seek(0)
    record = features.serialize_example({"audio": features["audio"].encode_example(file)})
    parse = _tfds_parser(features, "audio", 16_000, None, None, None, "a record")
    np.testing.assert_array_equal(tf.function(parse)(record)["waveform"], noise(1, 0.5))


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"sound": {}}, "has no feature 'speech' or 'audio'; it has sound"),
        ({"audio": {}}, "does not say the sample rate of its 'audio'"),
    ],
)
def test_tfds_without_audio_or_rate_is_refused(tmp_path, features, message):
    import tensorflow_datasets as tfds

    prepare_tfds(
        tmp_path,
        "odd",
        {name: tfds.features.Audio(**options) for name, options in features.items()},
        [{name: np.arange(10) for name in features}],
        **{name: tf.TensorSpec((None,), tf.int64) for name in features},
    )
    with pytest.raises(DataError, match=message):
        open_speech_source("tfds:odd", tfds_dir=str(tmp_path))
