"""From packed rows of tokens to masked batches."""

import dataclasses
import os

import numpy as np
import tensorflow as tf

from d2v_tf.data.indexed import IndexedSource
from d2v_tf.data.no_autograph import no_autograph
from d2v_tf.data.packing import Packer
from d2v_tf.data.prepare_text import read_source
from d2v_tf.data.reading import DataError, read_examples
from d2v_tf.data.records import RecordSource, record_files
from d2v_tf.data.seeds import stream_seed
from d2v_tf.data.shards import TOKENIZER, parse_row, read_corpus
from d2v_tf.data.sources import open_source
from d2v_tf.data.tokenization import TextTokenizer, load_tokenizer, train_tokenizer
from d2v_tf.masking import token_mask

# Text that is tokenised at the start of a run, in memory; more is to be prepared.
MAX_UNPREPARED_BYTES = 1 << 26
# The stream of `stream_seed` for masks.
MASK = 1 << 40


@dataclasses.dataclass(frozen=True, eq=False)
class RowSource(IndexedSource):
    """Packed rows in memory, which can be read in any order.

    Attributes:
        rows: int32 array `[N, row_length]`.
    """

    rows: np.ndarray | None = None

    def load(self, index):
        """`name` and `token_ids` of one row; runs in a graph."""
        return {"name": tf.strings.format("row {}", index), "token_ids": self._rows[index]}

    def __post_init__(self):
        object.__setattr__(self, "_rows", tf.constant(self.rows, tf.int32))


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
    """Rows to pre-train on, and the tokenizer that they were made with.

    Attributes:
        source: gives `records` and `load`, as `RecordSource`; an example has `token_ids`.
        tokenizer: `TextTokenizer`.
        row_length: int. Tokens in a row.
    """

    source: object
    tokenizer: TextTokenizer
    row_length: int


def open_corpus(spec, row_length=512, vocabulary_size=None, tokenizer=None):
    """Opens a corpus.

    Prepared text brings its tokenizer and its row length along. Other text is read whole, and
    tokenised anew, which gives the same rows every time.

    Args:
        spec: str. `folder:DIR`, what `tools/prepare.py` wrote, or `tfrecord:GLOB`, some of its
            shards; or `builtin` (Python's manual, 400 thousand characters), or `text:GLOB` for a
            little text.
        row_length: int. Tokens in a row, for text that is not prepared.
        vocabulary_size: optional int. Trains a tokenizer of this size on text that is not prepared.
        tokenizer: optional `TextTokenizer`, or a str to read it from. Used instead.

    Returns:
        `Corpus`.

    Raises:
        DataError: for a source that does not exist, is empty, too large or cannot be read.
    """
    return open_source(
        spec,
        TEXT_SOURCES,
        row_length=row_length,
        vocabulary_size=vocabulary_size,
        tokenizer=tokenizer,
    )


def open_builtin(split, **options):
    """Python's manual, a topic a document."""
    return _tokenize(f"builtin:{split}" if split else "builtin", **options)


def open_folder(path, **_):
    """What `tools/prepare.py` wrote."""
    return _open_prepared(f"folder:{path}", path)


def open_text(pattern, **options):
    """The text files, plain or `.gz`, that a glob names; not much text."""
    return _tokenize(f"text:{pattern}", **options)


def open_tfrecord(pattern, **_):
    """The shards of one prepared folder that a glob names."""
    files = record_files(pattern)
    return _open_prepared(f"tfrecord:{pattern}", os.path.dirname(files[0]), files)


TEXT_SOURCES = {
    "builtin": open_builtin,
    "folder": open_folder,
    "text": open_text,
    "tfrecord": open_tfrecord,
}


def _tokenize(spec, row_length, vocabulary_size, tokenizer):
    if (vocabulary_size is None) == (tokenizer is None):
        raise DataError(
            f"data: {spec} needs either the size of a vocabulary to train, or a tokenizer."
        )
    pieces = _read_little(spec)
    if not pieces:
        raise DataError(f"data: {spec} has no text: its files are empty or blank.")
    if tokenizer is None:
        trained = train_tokenizer((piece.text for piece in pieces), vocabulary_size)
    else:
        trained = load_tokenizer(tokenizer) if isinstance(tokenizer, str) else tokenizer
    packer = Packer(
        row_length, trained.start_token_id, trained.end_token_id, trained.padding_token_id
    )
    for piece, ids in zip(pieces, trained.encode(p.text for p in pieces), strict=True):
        packer.add(ids, piece.ends)
    packer.finish()
    rows = np.array(packer.rows, "int32")
    source = RowSource(spec, range(len(rows)), np.full(len(rows), -1), rows=rows)
    return Corpus(source, trained, row_length)


def _read_little(spec):
    """The pieces of a source; what a `.gz` file holds is known only once it is read."""
    pieces, size = [], 0
    for piece in read_source(spec):
        pieces.append(piece)
        size += len(piece.text.encode())
        if size > MAX_UNPREPARED_BYTES:
            raise DataError(
                f"data: {spec} has more than the {MAX_UNPREPARED_BYTES / 1e6:,.0f} MB of text that "
                "are tokenised at the start of a run. Prepare it: python tools/prepare.py "
                f"--modality=text --data='{spec}' --out=DIR --vocab_size=N, then give "
                "--data=folder:DIR."
            )
    return pieces


def _open_prepared(spec, folder, files=None):
    summary, rows_of = read_corpus(folder)
    for path in rows_of if files is None else files:
        if path not in rows_of:
            raise DataError(f"data: {spec}: {path} is not one of the shards of {folder}.")
        if not os.path.exists(path):
            raise DataError(f"data: {spec} is not whole: {path} is gone. Prepare it anew.")
    parts = [(path, 0, rows) for path, rows in rows_of.items() if files is None or path in files]
    row_length = summary["row_length"]

    def parse(record):
        return {
            "name": tf.constant(f"a row of {folder}"),
            "token_ids": parse_row(record, row_length),
        }

    source = RecordSource(spec, parts, parse)
    return Corpus(source, load_tokenizer(os.path.join(folder, TOKENIZER)), row_length)


@no_autograph
def pretraining_dataset(
    corpus,
    *,
    sequence_length,
    batch_size,
    seed,
    start,
    ratio,
    span_length,
    random_part,
    keep_part,
    bad_examples,
    shuffle=True,
    num_shards=1,
    shard=0,
):
    """Batches for pre-training, without end; a function of (seed, position) alone.

    Args:
        corpus: from `open_corpus`.
        sequence_length: int. T, at least the corpus' row length; the rest is padding.
        batch_size: int. Rows a batch, of this shard.
        seed: int.
        start: int. Position of the first row; batch n of a run starts at n times the batch.
        ratio, span_length, random_part, keep_part: of `token_mask`.
        bad_examples: `BadExamples`.
        shuffle: bool.
        num_shards, shard: ints. Every num_shards-th position, from `start + shard` on.

    Returns:
        A dataset of `{"token_ids", "target_token_ids": [B, T] int32, "padding_mask", "mask":
        [B, T] bool}`: tokens as masked, as they were, which are real, and which to predict.

    Raises:
        DataError: where the corpus' rows are longer than T.
    """
    tokenizer, padding = corpus.tokenizer, corpus.tokenizer.padding_token_id
    if corpus.row_length > sequence_length:
        raise DataError(
            f"data: {corpus.source.name} has rows of {corpus.row_length} tokens, more than the "
            f"{sequence_length} of model.max_sequence_length. Prepare it with "
            f"--row_length={sequence_length}, or give the model longer rows."
        )

    def view(example, _):
        missing = sequence_length - corpus.row_length
        tokens = tf.pad(example["token_ids"], [[0, missing]], constant_values=padding)
        return {"token_ids": tf.ensure_shape(tokens, [sequence_length])}

    def finish(batch):
        tokens = tf.ensure_shape(batch["token_ids"], [batch_size, sequence_length])
        position = tf.ensure_shape(batch["position"], [batch_size])
        seeds = stream_seed(seed, position, MASK)
        masked, mask = token_mask(
            tokens,
            seeds,
            tokenizer.mask_token_id,
            tokenizer.special_token_ids,
            tokenizer.vocabulary_size,
            ratio=ratio,
            span_length=span_length,
            random_part=random_part,
            keep_part=keep_part,
        )
        return {
            "token_ids": masked,
            "target_token_ids": tokens,
            "padding_mask": tokens != padding,
            "mask": mask,
        }

    records = corpus.source.records(start, seed, shuffle, num_shards, shard)
    batches = read_examples(
        records, corpus.source.load, view, bad_examples, batch_size, drop_remainder=True
    )
    return batches.map(finish, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
