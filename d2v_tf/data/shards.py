"""What stands in a folder of prepared text: shards of packed rows, and their numbers."""

import dataclasses
import glob
import json
import os

import tensorflow as tf

from d2v_tf.data.reading import DataError

# How a run was started, what came of it (written last), and its tokenizer's folder.
PLAN, SUMMARY, TOKENIZER = "plan.json", "corpus.json", "tokenizer"


@dataclasses.dataclass
class Counts:
    """What became of some text; the fields of `corpus.json`.

    Attributes:
        rows, tokens, documents: ints. Tokens include `<s>` and `</s>`, not padding.
        bytes: int. Of text, unpacked.
        invalid: int. Characters that stand for bytes that were no UTF-8.
        invalid_files: dict of path to number of them.
    """

    rows: int = 0
    tokens: int = 0
    documents: int = 0
    bytes: int = 0
    invalid: int = 0
    invalid_files: dict[str, int] = dataclasses.field(default_factory=dict)

    def add(self, other):
        """Adds another's numbers to these."""
        for name in ("rows", "tokens", "documents", "bytes", "invalid"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for path, number in other.invalid_files.items():
            self.invalid_files[path] = self.invalid_files.get(path, 0) + number


def serialize_row(row):
    """A row of token ids as a serialized `tf.train.Example`."""
    ids = tf.train.Feature(int64_list=tf.train.Int64List(value=row))
    return tf.train.Example(
        features=tf.train.Features(feature={"token_ids": ids})
    ).SerializeToString()


def parse_row(record, row_length):
    """int32 `[row_length]`, from what `serialize_row` wrote; runs in a graph."""
    features = {"token_ids": tf.io.FixedLenFeature([row_length], tf.int64)}
    return tf.cast(tf.io.parse_single_example(record, features)["token_ids"], tf.int32)


def read_corpus(out):
    """What `prepare_text` left in a folder: `corpus.json`, and rows per shard.

    Returns:
        (dict, dict of a shard's path to its rows).

    Raises:
        DataError: where the folder holds no finished run.
    """
    path = os.path.join(out, SUMMARY)
    if not os.path.exists(path):
        state = (
            "an unfinished run: finish it with --resume"
            if os.path.exists(os.path.join(out, PLAN))
            else "no prepared text. python tools/prepare.py --modality=text makes it; a little "
            f"plain text is read as it is: --data='text:{out}/*.txt'"
        )
        raise DataError(f"data: {out} holds {state}.")
    with open(path, encoding="utf-8") as file:
        summary = json.load(file)
    shards = {}
    for done in sorted(glob.glob(os.path.join(glob.escape(out), "shard-*.json"))):
        rows = read_counts(done).rows
        if rows:
            shards[done.removesuffix(".json") + ".tfrecord"] = rows
    return summary, shards


def read_counts(path):
    """The `Counts` of a shard, from the file beside it."""
    with open(path, encoding="utf-8") as file:
        return Counts(**json.load(file))


def write_json(path, content):
    """Writes a file that is either whole or not there."""
    with open(f"{path}.tmp", "w", encoding="utf-8") as file:
        json.dump(content, file)
    os.replace(f"{path}.tmp", path)
