"""Turns text files into packed, tokenised TFRecord shards: `tools/prepare.py --modality=text`."""

import dataclasses
import json
import multiprocessing
import os
import pydoc_data.topics
import signal
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

import tensorflow as tf
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from d2v_tf.data.documents import (
    Piece,
    Segment,
    find_files,
    join_lines,
    read_pieces,
    split_files,
)
from d2v_tf.data.packing import Packer
from d2v_tf.data.reading import DataError
from d2v_tf.data.shards import (
    PLAN,
    SUMMARY,
    TOKENIZER,
    Counts,
    read_counts,
    serialize_row,
    write_json,
)
from d2v_tf.data.sources import open_source
from d2v_tf.data.text_records import RecordSegment, plan_tfds, read_records
from d2v_tf.data.tokenization import SMALLEST_VOCABULARY, load_tokenizer, train_tokenizer
from d2v_tf.data.writing import writing

# A shard is of so much text: many, so that workers are busy and epochs are mixed, and not too many.
SHARDS = 64
SHARD_BYTES = (1 << 20, 1 << 26)  # the least and the most
# What a tokenizer is trained on at most, evenly spread over the text.
TRAINING_BYTES = 1 << 28
BUILTIN = Segment("builtin")


def prepare_text(
    source,
    out,
    console,
    vocabulary_size=None,
    tokenizer=None,
    row_length=512,
    workers=None,
    resume=False,
    tfds_dir=None,
):
    """Tokenises text into `out`: shards, `corpus.json`, and the tokenizer's folder.

    The result depends on text, tokenizer and row length alone, not on the number of workers or on
    interruptions. A shard counts once its numbers stand beside it, which happens last.

    Args:
        source: str. `builtin`; `text:` and a path or a glob, plain or `.gz`; or
            `tfds:NAME[/CONFIG][:SPLIT]`, a dataset of tensorflow-datasets, a document an example.
        out: str. A folder, made if missing.
        console: `rich` console.
        vocabulary_size: optional int. Trains a tokenizer of this size on the text.
        tokenizer: optional str. Reads a tokenizer from there instead.
        row_length: int. Tokens in a row, special ones included.
        workers: optional int. Processes; all cores by default.
        resume: bool. Goes on where an interrupted run of the same arguments stopped.
        tfds_dir: optional str. Where TFDS keeps its datasets; its own default otherwise.

    Returns:
        `Counts` of the whole.

    Raises:
        DataError: for text, tokenizer or folder that cannot be used.
    """
    if (vocabulary_size is None) == (tokenizer is None):
        raise DataError(
            "prepare: give either --vocab_size=N to train a tokenizer, or --tokenizer=DIR to use "
            "one."
        )
    if row_length < 8:
        raise DataError(f"prepare: --row_length={row_length} is too short; at least 8 are needed.")
    if tokenizer is not None and not resume:
        load_tokenizer(tokenizer)  # what is wrong with it is told before anything is written
    if tokenizer is None and vocabulary_size < SMALLEST_VOCABULARY:
        raise DataError(
            f"prepare: --vocab_size={vocabulary_size} is too small; at least {SMALLEST_VOCABULARY} "
            "are needed, for 256 bytes and the special tokens."
        )
    groups = open_source(source, PREPARE_SOURCES, tfds_dir=tfds_dir)
    plan = {
        "source": source,
        "row_length": row_length,
        "vocabulary_size": vocabulary_size,
        "tokenizer": tokenizer,
        "files": _fingerprints(groups),
    }
    _start(out, plan, resume)
    folder = os.path.join(out, TOKENIZER)
    if not os.path.exists(os.path.join(folder, "tokenizer.json")):
        if tokenizer is None:
            with console.status("training a tokenizer"):
                trained = train_tokenizer(_training_texts(groups), vocabulary_size)
        else:
            trained = load_tokenizer(tokenizer)
        with writing(out):
            _write_tokenizer(trained, folder)

    workers = workers or os.cpu_count()
    total = _tokenize_groups(groups, out, row_length, workers, console)
    if not total.rows:
        raise DataError(f"data: {source} has no text: its files are empty or blank.")
    size = load_tokenizer(folder).vocabulary_size
    with writing(out):
        write_json(
            os.path.join(out, SUMMARY),
            {"row_length": row_length, "vocabulary_size": size, **dataclasses.asdict(total)},
        )
    _report(console, out, total, row_length, size, vocabulary_size)
    return total


def prepare(flags, console):
    """What `tools/prepare.py --modality=text` does; `flags` are its flags."""
    if flags.lm_order is not None:
        from d2v_tf.finetuning.ngram import prepare_ngrams  # nothing else here needs it

        prepare_ngrams(flags.data, flags.out, flags.lm_order, flags.lm_letters, console)
        return
    prepare_text(
        flags.data,
        flags.out,
        console,
        vocabulary_size=flags.vocab_size,
        tokenizer=flags.tokenizer,
        row_length=flags.row_length,
        workers=flags.workers,
        resume=flags.resume,
        tfds_dir=flags.tfds_dir,
    )


def read_source(source):
    """The pieces of all documents of a small source, in order, without preparing it.

    Args:
        source: str, as of `prepare_text`.
    """
    for group in open_source(source, PREPARE_SOURCES):
        for segment in group:
            yield from _read(segment)


def plan_builtin(split, **_):
    """Python's manual, as one group."""
    if split:
        raise DataError(f"data: builtin has no splits. Received: {split!r}")
    return [[BUILTIN]]


def plan_text(pattern, **_):
    """Groups of the files that a path or a glob names, a shard each."""
    files = find_files(pattern)
    least, most = SHARD_BYTES
    total = sum(map(os.path.getsize, files))
    return split_files(files, min(max(total // SHARDS, least), most))


# Functions of what stands behind the colon to groups of segments; each becomes a shard.
PREPARE_SOURCES = {"builtin": plan_builtin, "text": plan_text, "tfds": plan_tfds}


def _fingerprints(groups):
    """[path, size, time] of each file, by which a changed one is noticed."""
    paths = dict.fromkeys(segment.path for group in groups for segment in group)
    stats = ((path, None if path == "builtin" else os.stat(path)) for path in paths)
    return [[path, *((s.st_size, s.st_mtime_ns) if s else (0, 0))] for path, s in stats]


def _read(segment):
    """Pieces of a segment; those of Python's manual, a topic a document, for `builtin`."""
    if segment == BUILTIN:
        for _, text in sorted(pydoc_data.topics.topics.items()):
            yield Piece(join_lines(text), True)
    elif isinstance(segment, RecordSegment):
        yield from read_records(segment)
    else:
        yield from read_pieces(segment)


def _training_texts(groups):
    """Texts of all groups, or of every n-th where they are too much."""
    size = sum(size for _, size, _ in _fingerprints(groups))
    for group in groups[:: max(1, -(-size // TRAINING_BYTES))]:
        for segment in group:
            for piece in _read(segment):
                yield piece.text


def _start(out, plan, resume):
    """Makes the folder, or checks that it is of an interrupted run of the same plan."""
    path = os.path.join(out, PLAN)
    with writing(out):
        os.makedirs(out, exist_ok=True)
        if not os.path.exists(path):
            if os.listdir(out):
                raise DataError(f"prepare: --out={out} is not empty. Choose another folder.")
            write_json(path, plan)
            return
    if not resume:
        raise DataError(
            f"prepare: --out={out} holds an earlier run. Add --resume to finish it, or choose "
            "another folder."
        )
    with open(path, encoding="utf-8") as file:
        before = json.load(file)
    for key, value in json.loads(json.dumps(plan)).items():
        if before.get(key) != value:
            was, now = before.get(key), value
            if key == "files":
                was, now = _first_difference(was, now)
            raise DataError(
                f"prepare: --out={out} cannot be resumed: {key} was {was!r} and is {now!r}. Choose "
                "another folder."
            )


def _first_difference(before, now):
    changed = [(b, n) for b, n in zip(before, now, strict=False) if b != n]
    return changed[0] if changed else (f"{len(before)} files", f"{len(now)} files")


def _write_tokenizer(tokenizer, folder):
    temporary = f"{folder}.tmp"
    tokenizer.save(temporary)
    os.replace(temporary, folder)


def _tokenize_groups(groups, out, row_length, workers, console):
    total, todo = Counts(), []
    for number, group in enumerate(groups):
        done = os.path.join(out, f"shard-{number:05d}.json")
        if os.path.exists(done):
            total.add(read_counts(done))
        else:
            todo.append((number, group))
    jobs = [(number, group, out, row_length) for number, group in todo]
    with Progress(
        TextColumn("tokenising"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} shards, {task.fields[tokens]:,} tokens"),
        TimeRemainingColumn(),
        console=console,
    ) as progress:
        task = progress.add_task(
            "", total=len(groups), completed=len(groups) - len(todo), tokens=total.tokens
        )
        for counts in _run(jobs, min(workers, len(jobs))):
            total.add(counts)
            progress.update(task, advance=1, tokens=total.tokens)
    return total


def _run(jobs, workers):
    """Does the jobs in processes of their own; counts as they come."""
    if workers <= 1:
        for job in jobs:
            yield _write_shard(*job)
        return
    context = multiprocessing.get_context("spawn")  # a fork of a TensorFlow process may hang
    stop = context.Event()
    executor = ProcessPoolExecutor(workers, context, _start_worker, (stop,))
    try:
        for future in as_completed([executor.submit(_write_shard, *job) for job in jobs]):
            yield future.result()
    except BrokenProcessPool:
        raise DataError(
            "prepare: a worker was killed, perhaps for want of memory. Start again with --resume "
            "and fewer --workers."
        ) from None
    finally:
        stop.set()
        executor.shutdown(cancel_futures=True)


_stop = None  # in a worker: the event that ends it


def _start_worker(stop):
    global _stop
    _stop = stop
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one core a process
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent says when to stop


def _write_shard(number, group, out, row_length):
    """Writes a shard, then its numbers; a name without `.tmp` stands for a whole file."""
    tokenizer = load_tokenizer(os.path.join(out, TOKENIZER))
    packer = Packer(
        row_length, tokenizer.start_token_id, tokenizer.end_token_id, tokenizer.padding_token_id
    )
    counts = Counts()
    if _stop is not None and _stop.is_set():
        return counts
    path = os.path.join(out, f"shard-{number:05d}.tfrecord")
    with writing(out), tf.io.TFRecordWriter(f"{path}.tmp") as writer:

        def write_rows():
            for row in packer.rows:
                writer.write(serialize_row(row))
                counts.tokens += row_length - row.count(tokenizer.padding_token_id)
            counts.rows += len(packer.rows)
            packer.rows.clear()

        for segment in group:
            for pieces in _batched(_read(segment)):
                if _stop is not None and _stop.is_set():
                    return counts
                texts = [piece.text for piece in pieces]
                for piece, ids in zip(pieces, tokenizer.encode(texts), strict=True):
                    packer.add(ids, piece.ends)
                    counts.documents += piece.ends
                    counts.bytes += len(piece.text.encode())
                    if piece.invalid:
                        counts.invalid += piece.invalid
                        before = counts.invalid_files.get(segment.path, 0)
                        counts.invalid_files[segment.path] = before + piece.invalid
                write_rows()
        packer.finish()
        write_rows()
    with writing(out):
        if counts.rows:
            os.replace(f"{path}.tmp", path)
        else:
            os.remove(f"{path}.tmp")
        write_json(os.path.join(out, f"shard-{number:05d}.json"), dataclasses.asdict(counts))
    return counts


def _batched(pieces, size=1 << 18):
    """Lists of pieces of some 256 kB together."""
    batch, held = [], 0
    for piece in pieces:
        batch.append(piece)
        held += len(piece.text)
        if held >= size:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def _report(console, out, total, row_length, size, asked):
    console.print(
        f"{out}: {total.documents:,} documents, {total.tokens:,} tokens in {total.rows:,} rows of "
        f"{row_length} ({100 * total.tokens / (total.rows * row_length):.1f}% full), vocabulary "
        f"{size:,}"
    )
    if asked and size < asked:
        console.print(
            f"[yellow]warning:[/] the text gives only {size:,} of the {asked:,} tokens asked for."
        )
    if total.invalid:
        path, number = max(total.invalid_files.items(), key=lambda item: item[1])
        console.print(
            f"[yellow]warning:[/] {total.invalid:,} characters in {len(total.invalid_files)} files "
            f"are no UTF-8 and became U+FFFD (most in {path}: {number:,}). Convert these files if "
            "they are of another encoding."
        )
