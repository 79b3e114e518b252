"""Sources of speech files: what they find, and what they say when they cannot."""

import tarfile

import numpy as np
import pytest
import soundfile

from d2v_tf.data.audio_files import read_audio
from d2v_tf.data.reading import DataError
from d2v_tf.data.speech_sources import open_speech_source
from tests.data.audio import RATE, noise, tone, write_manifest, write_tree


def test_a_folder_is_searched_and_measured(tmp_path):
    paths = write_tree(tmp_path, [1.0, 0.5, 2.0])
    soundfile.write(tmp_path / "bob" / "zz.FLAC", tone(300, 1.0, 44_100, 2), 44_100, format="FLAC")
    (tmp_path / "bob" / "notes.txt").write_text("not audio")
    told = []
    source = open_speech_source(f"folder:{tmp_path}", advance=lambda *now: told.append(now))
    assert source.names == [str(p) for p in paths] + [str(tmp_path / "bob" / "zz.FLAC")]
    assert source.lengths.tolist() == [RATE, 2 * RATE, RATE // 2, RATE]
    assert source.num_examples == 4 and not source.problems and source.transcripts is None
    assert source.class_names == {"class": ("ann", "bob")} and source.has_labels
    assert source.labels["class"].tolist() == [0, 0, 1, 1]
    assert told == [(4, 4)]


def test_classes_are_below_what_all_files_share(tmp_path):
    for speaker in ("19", "26"):
        write_tree(tmp_path / "corpus" / "audio" / speaker, [0.1], classes=("chapter",))
    source = open_speech_source(f"folder:{tmp_path}")
    assert source.class_names == {"class": ("19", "26")}
    write_tree(tmp_path / "corpus" / "audio", [0.1], classes=(".",))  # a file in no class
    assert not open_speech_source(f"folder:{tmp_path}").has_labels
    write_tree(tmp_path / "single", [0.1, 0.1], classes=("only",))
    assert not open_speech_source(f"folder:{tmp_path}/single").has_labels


def test_unreadable_headers_are_kept_with_their_reason(tmp_path):
    paths = write_tree(tmp_path, [0.1] * 4)
    paths[1].write_bytes(b"")
    paths[2].write_text("hello")
    source = open_speech_source(f"folder:{tmp_path}")
    assert source.lengths.tolist() == [1600, 0, 0, 1600]
    assert source.problems == {
        1: "the file is empty (0 bytes)",
        2: "it is corrupt or no audio: Format not recognised",
    }


def test_transcripts_in_librispeechs_layout(tmp_path):
    for chapter in ("1", "2"):
        write_tree(tmp_path / "26" / chapter, [0.1, 0.1], classes=(".",))
        (tmp_path / "26" / chapter / f"26-{chapter}.trans.txt").write_text(
            f"0000 FIRST OF {chapter}\n0001 SECOND OF {chapter}\n"
        )
    source = open_speech_source(f"folder:{tmp_path}")
    assert source.transcripts == ["FIRST OF 1", "SECOND OF 1", "FIRST OF 2", "SECOND OF 2"]
    (tmp_path / "26" / "1" / "26-1.trans.txt").write_text("0000 ONLY ONE\n")
    assert open_speech_source(f"folder:{tmp_path}").transcripts is None


@pytest.fixture
def two(tmp_path):
    """A folder with a/0000.wav and b/0001.wav, of 1 s and 0.5 s."""
    write_tree(tmp_path, [1.0, 0.5], classes=("a", "b"))
    return tmp_path


ROWS = [("a/0000.wav", 16_000), ("b/0001.wav", 8_000)]


@pytest.mark.parametrize("root", [".", "", "absolute", "../{name}"])
def test_a_manifests_root(two, root):
    root = str(two) if root == "absolute" else root.format(name=two.name)
    source = open_speech_source(write_manifest(two / "train.tsv", ROWS, root))
    assert source.names == [str(two / "a" / "0000.wav"), str(two / "b" / "0001.wav")]
    assert source.lengths.tolist() == [16_000, 8_000]
    assert source.class_names == {"class": ("a", "b")}
    assert [len(source.read(i)) for i in range(2)] == [16_000, 8_000]


def test_a_root_that_moved_away_is_told_apart_from_one_that_never_was(two):
    manifest = write_manifest(two / "train.tsv", ROWS, "/old/place")
    with pytest.raises(DataError, match="'/old/place' .* but beside the manifest .* Write '.'"):
        open_speech_source(manifest)
    manifest = write_manifest(two / "train.tsv", [("c.wav", 1)], "/old/place")
    with pytest.raises(DataError, match="has '/old/place' as its first line, which is not a fold"):
        open_speech_source(manifest)
    (two / "train.tsv").write_text("a/0000.wav\t16000\nb/0001.wav\t8000\n")
    with pytest.raises(DataError, match=r"'a/0000.wav\\t16000' as its first line, which must be"):
        open_speech_source(manifest)


def test_byte_order_mark_windows_lines_spaces_and_missing_frames(two):
    (two / "a" / "0000.wav").rename(two / "a" / "with space.wav")
    text = "\ufeff.\r\na/with space.wav\t16000\r\nb/0001.wav\r\n\r\n"
    (two / "train.tsv").write_bytes(text.encode("utf-8"))
    source = open_speech_source(f"manifest:{two}/train.tsv")
    assert [name.split("/")[-1] for name in source.names] == ["with space.wav", "0001.wav"]
    assert source.lengths.tolist() == [16_000, 8_000]  # measured


def test_frames_at_another_rate_are_found_out(two):
    soundfile.write(two / "a" / "0000.wav", tone(300, 1.0, 44_100), 44_100)
    manifest = write_manifest(two / "train.tsv", [("a/0000.wav", 44_100), ("b/0001.wav", 8_000)])
    source = open_speech_source(manifest)
    assert source.lengths.tolist() == [16_000, 8_000]
    assert len(read_audio(source.names[0])) == 16_000


def test_a_manifests_files_are_not_all_opened(two):
    # The second is not looked at among so many, and its frames are believed.
    rows = [ROWS[0], ("b/missing.wav", 1234), *[ROWS[0]] * 100]
    source = open_speech_source(write_manifest(two / "train.tsv", rows))
    assert source.lengths[1] == 1234 and not source.problems


@pytest.mark.parametrize(
    ("ending", "text"),
    [
        (".ltr", "O N E | T W O |\nT H R E E |\n"),
        (".wrd", "ONE TWO\nTHREE\n\n"),
        (".txt", "ONE  TWO \r\nTHREE"),
    ],
)
def test_transcripts_beside_a_manifest(two, ending, text):
    manifest = write_manifest(two / "train.tsv", ROWS)
    (two / f"train{ending}").write_text(text)
    assert open_speech_source(manifest).transcripts == ["ONE TWO", "THREE"]
    (two / f"train{ending}").write_text("ONE\n")
    with pytest.raises(DataError, match=f"train{ending} has 1 transcripts for the 2 files of"):
        open_speech_source(manifest)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("foldr:x", "'foldr:x' is not a source; .* Did you mean folder"),
        ("folder:/nowhere", "folder:/nowhere is not a folder"),
        ("manifest:/nowhere.tsv", r"manifest:/nowhere.tsv cannot be read \(No such file"),
        ("builtin:dev", "builtin has the splits train and test. Received: 'dev'"),
        ("tfrecord:/nowhere/*.tfrecord", "names no file"),
        ("tfds:no_such_dataset_here", "tfds:no_such_dataset_here is not a dataset"),
    ],
)
def test_what_cannot_be_opened_is_named(spec, message):
    with pytest.raises(DataError, match=message):
        open_speech_source(spec)


def test_empty_and_strange_sources_say_what_they_are(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(DataError, match="has no audio: 1 files were seen, none of them ends in"):
        open_speech_source(f"folder:{tmp_path}")
    for text in ("", ".\n", ".\n\n"):
        (tmp_path / "a.tsv").write_text(text)
        with pytest.raises(DataError, match="a.tsv names no files. Its first line is"):
            open_speech_source(f"manifest:{tmp_path}/a.tsv")
    (tmp_path / "a.tsv").write_text(".\na.wav\t12.5\n")
    with pytest.raises(DataError, match="a.tsv, line 2: '12.5' is no number of frames"):
        open_speech_source(f"manifest:{tmp_path}/a.tsv")
    soundfile.write(tmp_path / "a.tsv", noise(0, 0.1), RATE, format="WAV")
    with pytest.raises(DataError, match="a.tsv is not a text file"):
        open_speech_source(f"manifest:{tmp_path}/a.tsv")


def test_real_manifests_and_folders(shared_data, tmp_path):
    with tarfile.open(shared_data / "librispeech.tar") as tar:
        wanted = ("librispeech/dev.", "librispeech/audio/1919/142785/1919-142785-000")
        members = [m for m in tar.getmembers() if m.name.startswith(wanted)]
        tar.extractall(tmp_path, members, filter="data")
    source = open_speech_source(f"manifest:{tmp_path}/librispeech/dev.tsv")
    assert source.num_examples == 135 and source.class_names == {"class": ("1919", "652")}
    assert source.transcripts[0] == "ILLUSTRATION LONG PEPPER"
    assert len(source.read(0)) == source.lengths[0] == 42_560
    folder = open_speech_source(f"folder:{tmp_path}/librispeech")
    np.testing.assert_array_equal(folder.lengths, source.lengths[: folder.num_examples])
