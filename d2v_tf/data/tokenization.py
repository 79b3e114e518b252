"""Byte-level BPE as RoBERTa has it: trained here or read from published files."""

import codecs
import dataclasses
import functools
import json
import os

import keras
import keras_hub
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from d2v_tf.backbones.text import Data2VecTextBackbone
from d2v_tf.data.reading import DataError

# RoBERTa's, at ids 0 to 3; `<mask>` is the last of the vocabulary.
FIRST_TOKENS = ("<s>", "<pad>", "</s>", "<unk>")
MASK_TOKEN = "<mask>"
SMALLEST_VOCABULARY = 256 + len(FIRST_TOKENS) + 1
# What a folder may hold, best first.
FILES = (
    ("tokenizer.json",),
    ("vocab.json", "merges.txt"),
    ("vocabulary.json", "merges.txt"),  # KerasHub's
    ("dict.txt", "encoder.json", "vocab.bpe"),  # fairseq's
)


@keras.saving.register_keras_serializable(package="d2v_tf")
class Data2VecTextTokenizer(keras_hub.tokenizers.BytePairTokenizer):
    """The tokenizer as a layer: strings in, ids out, in a graph; part of a preset.

    Special tokens are not parsed in texts: a text that says `<mask>` is six characters. Ids are
    those of `TextTokenizer`, but for what KerasHub splits in a way of its own: two or more spaces
    at the very end of a text, the digit U+096C and NUL.

    Args:
        vocabulary: dict of token to id, or the path of a JSON file of it.
        merges: list of `"a b"`, or the path of a file of them.
    """

    backbone_cls = Data2VecTextBackbone

    def __init__(self, vocabulary=None, merges=None, **kwargs):
        self._add_special_token("<s>", "start_token")
        self._add_special_token("</s>", "end_token")
        self._add_special_token("<pad>", "pad_token")
        self._add_special_token(MASK_TOKEN, "mask_token")
        kwargs["unsplittable_tokens"] = []
        # Outside of graphs KerasHub would split texts as Llama 3 does, which gives other ids.
        kwargs["_allow_python_workflow"] = False
        super().__init__(vocabulary=vocabulary, merges=merges, **kwargs)


@dataclasses.dataclass(frozen=True, eq=False)
class TextTokenizer:
    """A byte-level BPE with RoBERTa's special tokens.

    Attributes:
        vocabulary: dict of token to id.
        merges: list of (str, str), first to apply first.
    """

    vocabulary: dict[str, int]
    merges: list[tuple[str, str]]

    @property
    def vocabulary_size(self):
        """int. What the backbone's must be at least."""
        return max(self.vocabulary.values()) + 1

    @property
    def start_token_id(self):
        """int. `<s>`, at the front of every row."""
        return self.vocabulary["<s>"]

    @property
    def padding_token_id(self):
        """int. `<pad>`."""
        return self.vocabulary["<pad>"]

    @property
    def end_token_id(self):
        """int. `</s>`, behind every document."""
        return self.vocabulary["</s>"]

    @property
    def mask_token_id(self):
        """int. `<mask>`."""
        return self.vocabulary[MASK_TOKEN]

    @property
    def special_token_ids(self):
        """tuple of int. What is never masked."""
        return tuple(self.vocabulary[token] for token in (*FIRST_TOKENS, MASK_TOKEN))

    def encode(self, texts):
        """Ids of each text, without special tokens.

        Args:
            texts: list of str.

        Returns:
            A list of lists of int.
        """
        encodings = self._encoder.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, ids):
        """The text of a list of ids, special tokens included."""
        return self._encoder.decode(list(ids), skip_special_tokens=False)

    def texts_of(self, ids):
        """What each token adds to the text that all of them are.

        A character of several bytes may be split over tokens: the last of them has it, those before
        it have an empty str. Bytes that are no character, as where a row was cut, are "\ufffd".

        Args:
            ids: sequence of T ids.

        Returns:
            list of T str.
        """
        decoder, texts = codecs.getincrementaldecoder("utf-8")("replace"), []
        special = self.special_token_ids
        for i in map(int, ids):
            token = self._token_of.get(i, "")
            if i in special:
                _end_character(decoder, texts)
                texts.append(token)
            else:
                texts.append(decoder.decode(_bytes_of(token)))
        _end_character(decoder, texts)
        return texts

    @functools.cached_property
    def _token_of(self):
        return {i: token for token, i in self.vocabulary.items()}

    def in_graph(self, **kwargs):
        """The same tokenizer as a Keras layer, for serving; keyword arguments are the layer's."""
        return Data2VecTextTokenizer(
            dict(self.vocabulary), [f"{a} {b}" for a, b in self.merges], **kwargs
        )

    @classmethod
    def from_layer(cls, layer):
        """The tokenizer that a `Data2VecTextTokenizer` does in a graph."""
        merges = [tuple(merge.split(" ")) for merge in layer.merges]
        return cls(dict(layer.vocabulary), merges)

    def save(self, folder):
        """Writes `vocab.json`, `merges.txt` and `tokenizer.json`, which Hugging Face reads too."""
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, "vocab.json"), "w", encoding="utf-8") as file:
            json.dump(self.vocabulary, file, ensure_ascii=False)
        with open(os.path.join(folder, "merges.txt"), "w", encoding="utf-8") as file:
            file.write("#version: 0.2\n")
            file.writelines(f"{a} {b}\n" for a, b in self.merges)
        whole = self._new()
        whole.add_special_tokens([*FIRST_TOKENS, MASK_TOKEN])
        whole.post_processor = processors.RobertaProcessing(
            ("</s>", self.end_token_id), ("<s>", self.start_token_id), add_prefix_space=False
        )
        whole.save(os.path.join(folder, "tokenizer.json"))

    @functools.cached_property
    def _encoder(self):
        return self._new()

    def _new(self):
        """Without added tokens, so that a text cannot hold a special one."""
        tokenizer = tokenizers.Tokenizer(models.BPE(dict(self.vocabulary), list(self.merges)))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        return tokenizer


def _byte_of_letter():
    """The byte that each letter of a byte-level token stands for, as in GPT-2's `encoder.py`."""
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]  # printable in Latin-1
    others = [byte for byte in range(256) if byte not in own]
    return {chr(b): b for b in own} | {chr(256 + i): b for i, b in enumerate(others)}


BYTE_OF = _byte_of_letter()


def _bytes_of(token):
    if all(letter in BYTE_OF for letter in token):
        return bytes(BYTE_OF[letter] for letter in token)
    return token.encode()  # added to a vocabulary as it is


def _end_character(decoder, texts):
    """Gives what a character cut short has left to its last token."""
    if rest := decoder.decode(b"", final=True):
        texts[-1] += rest


def train_tokenizer(texts, vocabulary_size):
    """Trains a byte-level BPE.

    Equal texts give equal tokenizers. Few texts may give fewer tokens than asked for.

    Args:
        texts: iterable of str; read once.
        vocabulary_size: int. All 256 bytes and the five special tokens included.

    Raises:
        DataError: for a vocabulary that has no room for these.
    """
    if vocabulary_size < SMALLEST_VOCABULARY:
        raise DataError(
            f"tokenizer: its vocabulary must have at least {SMALLEST_VOCABULARY} tokens: 256 bytes "
            f"and the special ones. Received: {vocabulary_size}"
        )
    trained = tokenizers.Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size - 1,  # and the mask
        special_tokens=list(FIRST_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    trained.train_from_iterator(texts, trainer)
    vocabulary, merges = _parse_tokenizer_json(json.loads(trained.to_str()))
    vocabulary[MASK_TOKEN] = len(vocabulary)
    return TextTokenizer(dict(sorted(vocabulary.items(), key=lambda item: item[1])), merges)


def load_tokenizer(path):
    """Reads a tokenizer from a folder or from a `tokenizer.json`.

    Args:
        path: str. A folder with `tokenizer.json`, with RoBERTa's `vocab.json` and `merges.txt`, or
            with fairseq's `dict.txt`, `encoder.json` and `vocab.bpe`; or the first of these files.

    Raises:
        DataError: where there is none, it is of another kind, or it lacks a token.
    """
    if os.path.isfile(path):
        folder, names = os.path.dirname(path), (os.path.basename(path),)
        if names != ("tokenizer.json",) and not path.endswith(".json"):
            raise DataError(f"tokenizer: {path} is not a tokenizer.json. Give it or a folder.")
        read = _read_tokenizer_json
    else:
        folder = path
        names = next((n for n in FILES if all(map(os.path.isfile, _join(path, n)))), None)
        if names is None:
            wanted = "; ".join(" and ".join(names) for names in FILES)
            raise DataError(f"tokenizer: {path} has no tokenizer. It must hold one of: {wanted}.")
        read = {1: _read_tokenizer_json, 2: _read_roberta, 3: _read_fairseq}[len(names)]
    try:
        vocabulary, merges = read(*_join(folder, names))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"tokenizer: {', '.join(_join(folder, names))} cannot be read "
            f"({type(error).__name__}: {error})."
        ) from None
    _check(vocabulary, merges, path)
    return TextTokenizer(vocabulary, merges)


def _join(folder, names):
    return [os.path.join(folder, name) for name in names]


def _read_tokenizer_json(path):
    with open(path, encoding="utf-8") as file:
        return _parse_tokenizer_json(json.load(file))


def _parse_tokenizer_json(content):
    model, splitter = content["model"], content["pre_tokenizer"] or {}
    if model.get("type") != "BPE" or splitter.get("type") != "ByteLevel":
        raise ValueError(
            f"it is no byte-level BPE but {model.get('type')} on {splitter.get('type')}"
        )
    if splitter.get("add_prefix_space") or not splitter.get("use_regex", True):
        raise ValueError("its texts are split in another way than RoBERTa's")
    if content["normalizer"] is not None:
        raise ValueError(f"it changes texts before ({content['normalizer'].get('type')})")
    vocabulary = dict(model["vocab"])
    vocabulary.update({token["content"]: token["id"] for token in content["added_tokens"]})
    # Older files have "a b", newer ones ["a", "b"].
    merges = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in model["merges"]]
    return vocabulary, merges


def _read_roberta(vocabulary_path, merges_path):
    with open(vocabulary_path, encoding="utf-8") as file:
        vocabulary = json.load(file)
    return vocabulary, _read_merges(merges_path)


def _read_merges(path):
    with open(path, encoding="utf-8") as file:
        lines = [line.rstrip("\n") for line in file]
    if lines and lines[0].startswith("#version"):
        del lines[0]
    return [tuple(line.split(" ")) for line in lines if line]


def _read_fairseq(dictionary_path, encoder_path, merges_path):
    """Ids are in the order of the dictionary, whose words are ids of GPT-2's `encoder.json`."""
    with open(encoder_path, encoding="utf-8") as file:
        token_of = {str(i): token for token, i in json.load(file).items()}
    vocabulary = {token: i for i, token in enumerate(FIRST_TOKENS)}
    with open(dictionary_path, encoding="utf-8") as file:
        for line in file:
            word = line.rsplit(" ", 1)[0]  # "word count"
            vocabulary[token_of.get(word, word)] = len(vocabulary)
    vocabulary[MASK_TOKEN] = len(vocabulary)
    return vocabulary, _read_merges(merges_path)


def _check(vocabulary, merges, path):
    missing = [token for token in (*FIRST_TOKENS, MASK_TOKEN) if token not in vocabulary]
    if missing:
        raise DataError(
            f"tokenizer: {path} has no {', '.join(missing)}; RoBERTa's special tokens are needed."
        )
    # Without a token for every byte, and for what is merged, text would vanish without a word.
    needed = {*pre_tokenizers.ByteLevel.alphabet(), *("".join(merge) for merge in merges)}
    missing = sorted(needed - set(vocabulary))
    if missing:
        raise DataError(
            f"tokenizer: {path} lacks {len(missing)} tokens that its bytes and merges need "
            f"(first: {missing[0]!r})."
        )
