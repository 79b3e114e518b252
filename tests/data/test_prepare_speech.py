"""Preparing speech, by the tool as a user runs it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from rich.console import Console

from d2v_tf.data.prepare_speech import prepare_speech
from d2v_tf.data.reading import DataError
from d2v_tf.data.speech_sources import open_speech_source
from tests.data.audio import RATE, noise, tone, write_manifest, write_tree

ROOT = Path(__file__).resolve().parents[2]


def run_tool(*arguments):
    return subprocess.run(
        [sys.executable, "tools/prepare.py", "--modality=speech", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def library(tmp_path):
    """200 utterances in LibriSpeech's layout, one of them corrupt."""
    root = tmp_path / "library"
    paths = write_tree(root, [0.1 + 0.001 * i for i in range(200)], ("19/1", "26/2"))
    soundfile.write(paths[0], tone(300, 0.5, 8000), 8000)
    paths[7].write_bytes(b"")
    for folder in sorted({p.parent for p in paths}):
        lines = [f"{p.stem} NUMBER {p.stem}\n" for p in paths if p.parent == folder]
        (folder / "all.trans.txt").write_text("".join(lines))
    return root, paths


def test_the_tool_writes_what_the_sources_read(library, tmp_path):
    root, paths = library
    out = tmp_path / "out"
    done = run_tool(f"--data=folder:{root}", f"--out={out}", "--tfrecord", "--name=dev")
    assert done.returncode == 0, done.stderr
    assert f"warning: {paths[7]} is skipped: the file is empty (0 bytes)" in done.stdout
    assert "199 utterances" in done.stdout and "1 files left out" in done.stdout
    good = [p for i, p in enumerate(paths) if i != 7]

    manifest = open_speech_source(f"manifest:{out}/dev.tsv")
    assert manifest.names == [str(p) for p in good] and not manifest.problems
    assert manifest.transcripts == [f"NUMBER {p.stem}" for p in good]
    assert manifest.class_names == {"class": ("19", "26")}
    assert manifest.lengths[0] == RATE // 2
    assert (out / "dev.tsv").read_text().splitlines()[:2] == [
        str(root),
        f"19/1/0000.wav\t{RATE // 2}",
    ]
    assert (out / "dev.ltr").read_text().splitlines()[1] == "N U M B E R | 0 0 0 2 |"

    records = open_speech_source(f"tfrecord:{out}/dev-*.tfrecord")
    assert records.num_examples == 199 and records.has_labels
    assert [p.name for p in out.glob("*.tfrecord")] == ["dev-00000-of-00001.tfrecord"]
    order = []
    for record in records.once():
        example = records.load(record["candidates"][0])
        number = int(example["name"].numpy())
        assert example["text"].numpy().decode() == f"NUMBER {number:04}"
        assert int(example["label"]) == number % 2
        if number:
            np.testing.assert_array_equal(example["waveform"], noise(number, 0.1 + 0.001 * number))
        order.append(number)
    assert sorted(order) == sorted(int(p.stem) for p in good) and order != sorted(order)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data=folder:/nowhere", "--out=OUT"], "error: data: folder:/nowhere is not a folder"),
        (
            ["--data=folder:SPEECH", "--out=/proc/nowhere"],
            "--out=/proc/nowhere cannot be written (",
        ),
        (["--out=OUT"], "--data"),
        (["--data=builtin", "--out=OUT", "--max_bad=2"], "--max_bad"),
        (["--data=builtin", "--out=OUT", "more"], "unexpected argument: more"),
    ],
)
def test_mistakes_are_a_line_and_status_1(arguments, message, tmp_path):
    write_tree(tmp_path / "speech", [0.1])
    paths = {"OUT": str(tmp_path / "out"), "SPEECH": str(tmp_path / "speech")}
    for name, path in paths.items():
        arguments = [argument.replace(name, path) for argument in arguments]
    done = run_tool(*arguments)
    assert done.returncode == 1
    assert message in done.stdout + done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "out").exists()


def test_what_exists_is_not_overwritten_and_what_is_prepared_is_refused(tmp_path):
    write_tree(tmp_path / "speech", [0.1, 0.1])
    console = Console(quiet=True)
    spec = f"folder:{tmp_path}/speech"
    manifest = prepare_speech(spec, str(tmp_path), tfrecord=True, console=console)
    with pytest.raises(DataError, match="train.tsv exists already. Remove it, or choose another"):
        prepare_speech(spec, str(tmp_path), console=console)
    with pytest.raises(DataError, match="needs no preparation: give it to --data as it is"):
        prepare_speech(f"tfrecord:{tmp_path}/*.tfrecord", str(tmp_path), name="b", console=console)
    again = prepare_speech(f"manifest:{manifest}", str(tmp_path), name="c", console=console)
    assert Path(again).read_text() == Path(manifest).read_text()


def test_files_that_only_decoding_shows_to_be_corrupt_are_left_out_with_shards(tmp_path):
    paths = write_tree(tmp_path / "speech", [0.5] * 6)
    broken = np.full(1000, np.nan, "float32")
    soundfile.write(paths[2], broken, RATE, subtype="FLOAT")
    spec, console = f"folder:{tmp_path}/speech", Console(quiet=True)
    with pytest.raises(DataError, match="1 of 6 examples .* could not be read"):
        prepare_speech(spec, str(tmp_path), tfrecord=True, console=console)
    assert not (tmp_path / "train.tsv").exists()
    prepare_speech(spec, str(tmp_path), tfrecord=True, max_bad=0.2, console=console)
    assert str(paths[2].name) not in (tmp_path / "train.tsv").read_text()
    assert open_speech_source(f"tfrecord:{tmp_path}/train-*").num_examples == 5


def test_names_that_a_manifest_cannot_hold_are_refused(tmp_path):
    write_tree(tmp_path / "speech", [0.1], classes=("a\tb",))
    write_tree(tmp_path / "speech", [0.1], classes=("c",))
    with pytest.raises(DataError, match="has a tab or a line break in its name; rename it"):
        prepare_speech(f"folder:{tmp_path}/speech", str(tmp_path), console=Console(quiet=True))
    source = open_speech_source(write_manifest(tmp_path / "ok.tsv", [("speech/c/0000.wav", 1600)]))
    assert source.num_examples == 1


def test_a_full_disk_is_a_line(tmp_path):
    write_tree(tmp_path / "speech", [0.1])
    (tmp_path / "out").mkdir()
    full = tmp_path / "out" / "train-00000-of-00001.tfrecord"
    full.symlink_to("/dev/full")  # written as on a disk without room
    spec = f"folder:{tmp_path}/speech"
    with pytest.raises(DataError, match="out cannot be written .*No space left on device"):
        prepare_speech(spec, str(tmp_path / "out"), tfrecord=True, console=Console(quiet=True))
