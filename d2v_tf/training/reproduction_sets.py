"""The labelled and unlabelled sets of `configs/reproduce.yaml`, unpacked and arranged."""

import os
import shutil
import tarfile

from d2v_tf.data.connected_digits import NAME, connect_digits
from d2v_tf.data.prepare_text import prepare_text
from d2v_tf.data.reading import DataError
from d2v_tf.data.synthetic_speech import DIGITS
from d2v_tf.data.writing import writing
from d2v_tf.finetuning.ngram import prepare_ngrams

ARCHIVES = (
    "cifar10.tar.gz",
    "spoken_digits.tar.gz",
    "esc10.tar",
    "librispeech.tar",
    "text_corpus.tar.gz",
    "text_labelled.tar.gz",
    "glue.tar.gz",
)
CONNECTED = {"train": 1000, "test": 200}
LM_ORDER = 3
VOCABULARY_SIZE, ROW_LENGTH = 4096, 64


def arrange_sets(archives, folder, wanted, console):
    """Unpacks archives and makes what experiments need besides; what is there is left alone.

    Args:
        archives: optional str. The folder of `ARCHIVES`; `None` where all are unpacked already.
        folder: str. Made if missing. Gets a folder an archive, `spoken_digits/digits.tsv`,
            `connected/{train,test}.tsv`, `librispeech/words_3.arpa`, `librispeech/words.txt` and
            `corpus_64`.
        wanted: function of a folder's name to whether anything needs it.
        console: `rich` console.

    Raises:
        DataError: names the archive that is missing or broken.
    """
    with writing(folder):
        os.makedirs(folder, exist_ok=True)
    sources = {"spoken_digits": "connected", "text_corpus": "corpus_64"}
    for archive in ARCHIVES:
        name = folder_of(archive)
        if wanted(name) or (name in sources and wanted(sources[name])):
            unpack(archives, archive, folder, console)
    if wanted("spoken_digits") or wanted("connected"):
        arrange_digits(folder, console)
    if wanted("librispeech"):
        arrange_language_model(os.path.join(folder, "librispeech"), console)
    corpus = os.path.join(folder, "corpus_64")
    if wanted("corpus_64") and not os.path.exists(os.path.join(corpus, "corpus.json")):
        prepare_text(
            f"text:{folder}/text_corpus/*.txt",
            corpus,
            console,
            vocabulary_size=VOCABULARY_SIZE,
            row_length=ROW_LENGTH,
            resume=os.path.exists(corpus),
        )


def arrange_digits(folder, console):
    """Names the single digits in a table, and connects some."""
    digits = os.path.join(folder, "spoken_digits")
    write_digit_table(digits)
    for split, count in CONNECTED.items():
        if not os.path.exists(os.path.join(folder, "connected", f"{split}.tsv")):
            console.print(f"connecting digits: {split}", markup=False)
            out = os.path.join(folder, "connected")
            connect_digits(f"folder:{digits}/{split}", out, name=split, count=count)


def arrange_language_model(folder, console):
    """Estimates the n-gram model of LibriSpeech's text, and lists its words."""
    arpa, text = os.path.join(folder, f"words_{LM_ORDER}.arpa"), os.path.join(folder, "lm_text.txt")
    if not os.path.exists(arpa):
        prepare_ngrams(f"text:{text}", arpa, LM_ORDER, False, console)
    words = os.path.join(folder, "words.txt")
    if not os.path.exists(words):
        write_words(text, words)


def folder_of(archive):
    """The folder that an archive is unpacked to."""
    return archive.split(".")[0]


def unpack(archives, archive, folder, console):
    """Unpacks `NAME.tar` into `folder/NAME`, all of it or nothing."""
    name = folder_of(archive)
    target = os.path.join(folder, name)
    if os.path.exists(target):
        return
    if archives is None:
        raise DataError(f"--data={folder}: {name} is missing. Name the archives by --archives.")
    path = os.path.join(archives, archive)
    console.print(f"unpacking {path}", markup=False)
    parts = os.path.join(folder, f".{name}")
    shutil.rmtree(parts, ignore_errors=True)
    try:
        with tarfile.open(path) as tar:
            tar.extractall(parts, filter="data")
        os.rename(os.path.join(parts, name), target)
    except (OSError, tarfile.TarError) as error:
        raise DataError(f"--archives: {path} cannot be unpacked ({error}).") from None
    finally:
        shutil.rmtree(parts, ignore_errors=True)


def write_digit_table(folder):
    """Writes `digits.tsv`, columns path, class, speaker and split, of files that are named so."""
    path = os.path.join(folder, "digits.tsv")
    if os.path.exists(path):
        return
    lines = ["path\tclass\tspeaker\tsplit"]
    for split in ("train", "test"):
        for name in sorted(os.listdir(os.path.join(folder, split))):
            found = NAME.fullmatch(name)
            if found:
                word = DIGITS[int(found["digit"])]
                lines.append(f"{split}/{name}\t{word}\t{found['speaker']}\t{split}")
    with writing(folder), open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")


def write_words(text, path):
    """Writes the words of a text, one a line, each once."""
    with open(text, encoding="utf-8") as file:
        words = sorted(set(file.read().split()))
    with writing(os.path.dirname(path)), open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(words) + "\n")
