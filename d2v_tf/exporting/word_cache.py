"""Remembers how words are split, but not endlessly many."""

import keras_hub
import tensorflow as tf

from d2v_tf.exporting.requests import ExportError

# A server keeps at most so many words of at most so many bytes: 100 MB with what is around them.
MOST_WORDS, MOST_BYTES = 300_000, 64


class WordCache:
    """What KerasHub's byte-pair tokenizer keeps its words in, with an end to it.

    KerasHub's own keeps every word that ever came, in a server for as long as it runs. Here words
    that come once it is full are split anew each time. A request is answered from what it looked
    up and split itself, so that requests at the same time cannot disturb each other.

    Args:
        cache: KerasHub's, to be replaced.
        most_words: int.

    Has the methods that KerasHub calls, in its order: `lookup`; `insert` of the words that were
    not found, in graphs that need it; `lookup` of the same words again.
    """

    def __init__(self, cache, most_words=MOST_WORDS):
        self.table = cache.id2value
        self._key = cache._get_key
        self._most_words = most_words
        self._found = self._split = None

    def lookup(self, words):
        if self._split is not None:
            found, self._split = self._found, None
            return found
        self._found = self.table.lookup(self._key(words))
        self._found.set_shape([None])
        return self._found

    def insert(self, words, split):
        short = tf.strings.length(words) <= MOST_BYTES
        room = tf.maximum(self._most_words - tf.cast(self.table.size(), tf.int32), 0)
        kept = tf.where(short)[:room, 0]
        keys = self._key(tf.gather(words, kept))
        with tf.control_dependencies([self.table.insert(keys, tf.gather(split, kept))]):
            places = tf.where(self._found == "")
            self._found = tf.tensor_scatter_nd_update(self._found, places, split)
        self._split = split


def bounded(tokenizer):
    """A copy of a tokenizer for serving, and the tables that it uses.

    Args:
        tokenizer: `Data2VecTextTokenizer`.

    Returns:
        (tokenizer, list of TensorFlow's tables).

    Raises:
        ExportError: where KerasHub's tokenizer is made of other parts.
    """
    # KerasHub promises none of these parts: they are those of 0.32.
    try:
        copy = type(tokenizer)(dict(tokenizer.vocabulary), list(tokenizer.merges))
        copy._maybe_initialized_tf()
        copy.cache = WordCache(copy.cache)
        tables = [copy.cache.table, copy.byte2unicode, copy.token_to_id_map, copy.merge_ranks]
    except AttributeError as error:
        raise ExportError(
            f"Texts cannot be served with keras-hub {keras_hub.__version__}: its tokenizer has "
            f"other parts than that of 0.32 ({error}). pip install 'keras-hub==0.32.*'"
        ) from error
    return copy, tables
