"""Prepares speech once, so that a run need not look for it: a manifest, and shards if wanted."""

import concurrent.futures
import contextlib
import os

import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from d2v_tf.data.audio_files import SAMPLE_RATE, AudioError
from d2v_tf.data.reading import BadExamples, DataError
from d2v_tf.data.speech import report_unusable
from d2v_tf.data.speech_records import serialize_utterance
from d2v_tf.data.speech_sources import SpeechFiles, open_speech_source
from d2v_tf.data.writing import writing

# An hour of 16-bit samples is 115 MB, the size of shard that tf.data's guide advises.
SHARD_SECONDS = 3600
# Utterances that are decoded before they are written: bounds the memory.
CHUNK = 64


def prepare(options, console):
    """Prepares what the flags of tools/prepare.py ask for."""
    if options.connect is not None:
        from d2v_tf.data.connected_digits import connect_digits  # which imports this module

        with _progress(console, "connecting digits") as advance:
            manifest = connect_digits(
                options.data, options.out, options.name, options.connect, options.seed, advance
            )
        console.print(f"{options.connect:,} utterances of connected digits")
        console.print(f"manifest: {manifest}", markup=False)
        return
    prepare_speech(
        options.data,
        options.out,
        name=options.name,
        tfrecord=options.tfrecord,
        max_bad=options.max_bad,
        console=console,
    )


def prepare_speech(
    spec, out, name="train", tfrecord=False, max_bad=0.01, cache_dir=None, console=None
):
    """Writes a manifest of a source of speech, and its audio as TFRecord shards if asked.

    Args:
        spec: str. `folder:PATH`, `manifest:FILE.tsv` or `builtin[:SPLIT]`.
        out: str. A folder, made if need be. Gets `NAME.tsv` (first line the folder of the files,
            then `path<TAB>samples at 16 kHz`, which fairseq reads too), `NAME.wrd` and `NAME.ltr`
            where the source has transcripts, and `NAME-*-of-*.tfrecord`.
        name: str.
        tfrecord: bool. Whether shards are written: 16-bit PCM, 16 kHz mono, in random order.
        max_bad: float. The part of the files that may be unreadable. They are named and left out.
        cache_dir: optional str. As `open_speech_source`.
        console: optional `rich` console for everything that is printed.

    Returns:
        str. The path of the manifest.

    Raises:
        DataError: where there is nothing to prepare, too much is unreadable, the manifest exists
            already, or `out` cannot be written.
    """
    console = console or Console()
    manifest = os.path.join(out, f"{name}.tsv")
    if os.path.exists(manifest):
        raise DataError(
            f"data: {manifest} exists already. Remove it, or choose another --out or --name."
        )
    with _progress(console, "looking for audio") as advance:
        source = open_speech_source(spec, cache_dir=cache_dir, advance=advance)
    if not isinstance(source, SpeechFiles):
        raise DataError(f"data: {spec} needs no preparation: give it to --data as it is.")
    bad_examples = BadExamples(
        source.name,
        source.num_examples,
        max_bad,
        warn=lambda line: console.print(f"[yellow]warning:[/] {escape(line)}"),
    )
    report_unusable(source, 0, bad_examples)
    usable = source.lengths > 0
    if not usable.any():
        raise DataError(f"data: {source.name} has no audio that can be read.")
    with writing(out):
        os.makedirs(out, exist_ok=True)
        if tfrecord:
            usable = _write_shards(source, usable, os.path.join(out, name), bad_examples, console)
        write_manifest(source, np.flatnonzero(usable), manifest)
    hours = source.lengths[usable].sum() / SAMPLE_RATE / 3600
    console.print(
        f"{usable.sum():,} utterances, {hours:,.2f} hours; {bad_examples.count} files left out"
    )
    console.print(f"manifest: {manifest}", markup=False)
    return manifest


@contextlib.contextmanager
def _progress(console, description):
    """A progress bar; gives a function of (done, total)."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        task = progress.add_task(description, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def write_manifest(source, indices, path, root=None):
    """Writes a manifest of some utterances, and their transcripts beside it.

    Args:
        source: `SpeechFiles`.
        indices: ints. The utterances.
        path: str. `NAME.tsv`.
        root: optional str. A folder that holds the manifest and all files: then the manifest can be
            moved with it. Otherwise its first line is the absolute path of the files' folder.
    """
    paths = [os.path.abspath(source.names[i]) for i in indices]
    first = "." if root is not None else os.path.commonpath([os.path.dirname(p) for p in paths])
    root = os.path.abspath(first if root is None else root)
    lines = [f"{first}\n"]
    for index, file in zip(indices, paths, strict=True):
        relative = os.path.relpath(file, root)
        if "\t" in relative or "\n" in relative:
            raise DataError(f"data: {file!r} has a tab or a line break in its name; rename it.")
        lines.append(f"{relative}\t{source.lengths[index]}\n")
    if source.transcripts is not None:
        texts = [source.transcripts[i] for i in indices]
        stem = os.path.splitext(path)[0]
        _write_lines(f"{stem}.wrd", (f"{t}\n" for t in texts))
        _write_lines(f"{stem}.ltr", (" ".join(t.replace(" ", "|") + "|") + "\n" for t in texts))
    _write_lines(path, lines)


def _write_lines(path, lines):
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(lines)


def _write_shards(source, usable, stem, bad_examples, console):
    """Writes the usable utterances; returns which of them could be read, bool `[N]`."""
    # Written in random order, because a run shuffles only what is near.
    order = np.random.RandomState(0).permutation(np.flatnonzero(usable))
    seconds = source.lengths[order].sum() / SAMPLE_RATE
    shards = np.array_split(order, max(1, min(round(seconds / SHARD_SECONDS), len(order))))
    label = next(iter(source.labels), None)
    readable, done = usable.copy(), 0

    def serialize(index):
        try:
            waveform = source.read(index)
        except AudioError as error:
            bad_examples.report(source.names[index], str(error))
            return None
        number = int(source.labels[label][index]) if label else -1
        return serialize_utterance(
            waveform,
            os.path.splitext(os.path.basename(source.names[index]))[0],
            source.transcripts[index] if source.transcripts is not None else "",
            source.class_names[label][number] if number >= 0 else "",
            number,
        )

    with (
        _progress(console, "writing") as advance,
        concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        for number, members in enumerate(shards):
            path = f"{stem}-{number:05}-of-{len(shards):05}.tfrecord"
            with tf.io.TFRecordWriter(path) as writer:
                for chunk in np.array_split(members, -(-len(members) // CHUNK)):
                    for index, record in zip(chunk, pool.map(serialize, chunk), strict=True):
                        if record is None:
                            readable[index] = False
                        else:
                            writer.write(record)
                    done += len(chunk)
                    advance(done, len(order))
    console.print(f"{len(shards)} shards: {stem}-*.tfrecord", markup=False)
    return readable
