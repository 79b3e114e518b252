"""Where speech comes from: a function and a line in `SPEECH_SOURCES` each."""

import concurrent.futures
import dataclasses
import os

import numpy as np

from d2v_tf.data.audio_files import AudioError, audio_length, read_audio
from d2v_tf.data.audio_tables import read_table
from d2v_tf.data.reading import DataError
from d2v_tf.data.sources import open_source
from d2v_tf.data.speech_records import open_tfds, open_tfrecord
from d2v_tf.data.synthetic_speech import SPLITS, synthesize

AUDIO_ENDINGS = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif")
DEFAULT_CACHE = os.path.join("~", ".cache", "d2v_tf")
# Files whose headers one task reads: enough to make the task's own cost small.
CHUNK = 64
# Files of a manifest that are looked at for the truth of its lengths.
NUM_CHECKED = 16


@dataclasses.dataclass(frozen=True, eq=False)
class SpeechFiles:
    """Utterances in files, which can be read in any order.

    Attributes:
        name: str. As the user named it.
        names: list of N str, the paths.
        lengths: int64 array `[N]`, in samples at 16 kHz; 0 for a file whose header is unreadable.
        problems: dict from the index of such a file to what is wrong with it.
        labels: dict of int64 arrays `[N]`, -1 where there is none; the first is the main one.
        class_names: dict of tuples of str, for each of `labels`.
        transcripts: optional list of N str, words with spaces between.
        tags: optional bool array `[N, C]`: the classes of an utterance, which may be several.
        tag_names: optional tuple of C str.
    """

    name: str
    names: list[str]
    lengths: np.ndarray
    problems: dict[int, str] = dataclasses.field(default_factory=dict)
    labels: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    class_names: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    transcripts: list[str] | None = None
    tags: np.ndarray | None = None
    tag_names: tuple[str, ...] | None = None

    @property
    def num_examples(self):
        """int. N."""
        return len(self.names)

    @property
    def has_labels(self):
        """bool. Whether there is a kind of labels with one class an utterance: tags are none."""
        return bool(self.labels)

    def only(self, keep):
        """The source of these utterances alone, numbered anew; classes keep their numbers.

        Args:
            keep: bool array `[N]`.
        """
        chosen = np.flatnonzero(keep)
        return dataclasses.replace(
            self,
            name=f"{self.name} ({len(chosen):,} of its {self.num_examples:,} utterances)",
            names=[self.names[i] for i in chosen],
            lengths=self.lengths[chosen],
            problems={k: self.problems[i] for k, i in enumerate(chosen) if i in self.problems},
            labels={name: labels[chosen] for name, labels in self.labels.items()},
            transcripts=self.transcripts and [self.transcripts[i] for i in chosen],
            tags=None if self.tags is None else self.tags[chosen],
        )

    def read(self, index, **options):
        """The waveform of an utterance, as `read_audio` gives it."""
        return read_audio(self.names[index], **options)


def open_speech_source(spec, tfds_dir=None, cache_dir=None, advance=None):
    """Opens the source of speech that a `SOURCE` string names.

    Args:
        spec: str. `builtin[:train|test]`, `folder:PATH`, `manifest:FILE.tsv`,
            `table:FILE.tsv[?COLUMN=VALUE]`, `tfds:NAME[/CONFIG][:SPLIT]` or `tfrecord:GLOB`.
        tfds_dir: optional str. Where TFDS keeps its datasets; its own default otherwise.
        cache_dir: optional str. Where `builtin` keeps its files. Defaults to `~/.cache/d2v_tf`.
        advance: optional callable(done, total), told how many files have been looked at, or made.

    Returns:
        `SpeechFiles`, or a `RecordSource` of waveforms.

    Raises:
        DataError: for a source that does not exist, is empty or cannot be read.
    """
    return open_source(
        spec, SPEECH_SOURCES, tfds_dir=tfds_dir, cache_dir=cache_dir, advance=advance
    )


def open_folder(path, advance=None, **_):
    """The audio files below a folder.

    If every file is in a subfolder of the folder that they share, and there are at least two such
    subfolders, these are classes: the speakers of a part of LibriSpeech. Transcripts are read where
    every file has one in a `*.trans.txt` beside it, as LibriSpeech has them.
    """
    if not os.path.isdir(path):
        raise DataError(f"data: folder:{path} is not a folder. Check the path.")
    files, transcript_files, num_seen = [], [], 0
    for folder, subfolders, names in os.walk(path, followlinks=True):
        subfolders.sort()
        num_seen += len(names)
        files += [os.path.join(folder, n) for n in names if n.lower().endswith(AUDIO_ENDINGS)]
        transcript_files += [os.path.join(folder, n) for n in names if n.endswith(".trans.txt")]
    if not files:
        raise DataError(
            f"data: folder:{path} has no audio: {num_seen} files were seen, none of them ends in "
            f"{' '.join(AUDIO_ENDINGS)}."
        )
    files.sort()
    lengths, problems = measure_lengths(files, advance)
    labels, class_names = _class_folders([os.path.relpath(f, path) for f in files])
    return SpeechFiles(
        f"folder:{path}",
        files,
        lengths,
        problems,
        labels,
        class_names,
        _librispeech_transcripts(files, transcript_files),
    )


def open_manifest(path, advance=None, **_):
    """A manifest as wav2vec and fairseq write it, with the transcripts beside it.

    The first line is the folder of the files (`.` or any relative one: seen from the manifest), the
    others are `path<TAB>frames`. `NAME.ltr`, `NAME.wrd` or `NAME.txt` beside `NAME.tsv` holds the
    transcripts line by line. Classes are found as `open_folder` finds them.

    The frames count as samples at 16 kHz. A few files are looked at, and all of them if for one of
    these that is not so, or if the manifest has no frames.
    """
    here = os.path.dirname(os.path.abspath(path))
    first, *rows = _read_lines(path, f"data: manifest:{path}") or [""]
    rows = [(number, row) for number, row in enumerate(rows, 2) if row.strip()]
    if not rows:
        raise DataError(
            f"data: manifest:{path} names no files. Its first line is their folder, the others are "
            "path<TAB>frames; tools/prepare.py writes one."
        )
    relative, lengths = [], []
    for number, row in rows:
        name, _, frames = row.partition("\t")
        if frames.strip() and not frames.strip().isdecimal():
            raise DataError(
                f"data: manifest:{path}, line {number}: {frames.strip()!r} is no number of frames. "
                "A line is path<TAB>frames."
            )
        relative.append(name.strip())
        lengths.append(int(frames) if frames.strip() else -1)
    root = _manifest_root(path, here, first.strip(), relative[0])
    names = [os.path.normpath(os.path.join(root, name)) for name in relative]
    lengths, problems = np.array(lengths, "int64"), {}
    if not _lengths_are_true(names, lengths):
        lengths, problems = measure_lengths(names, advance)
    labels, class_names = _class_folders(relative)
    return SpeechFiles(
        f"manifest:{path}",
        names,
        lengths,
        problems,
        labels,
        class_names,
        _manifest_transcripts(path, [number - 2 for number, _ in rows]),
    )


def open_table(spec, advance=None, **_):
    """Audio files with their classes or tags, as a table names them; see `read_table`."""
    table = read_table(spec)
    lengths, problems = measure_lengths(table.paths, advance)
    has_classes = table.labels is not None
    return SpeechFiles(
        f"table:{spec}",
        table.paths,
        lengths,
        problems,
        labels={"class": table.labels} if has_classes else {},
        class_names={"class": table.class_names} if has_classes else {},
        tags=table.tags,
        tag_names=table.tag_names,
    )


def open_builtin(split, cache_dir=None, advance=None, **_):
    """Synthetic speech: spoken digits, one or several, of ten voices, with transcripts.

    Made once, as WAV files with a manifest, and read as any others. Labels: `digit`, of utterances
    of one word, and `speaker`.
    """
    split = split or "train"
    if split not in SPLITS:
        raise DataError(f"data: builtin has the splits train and test. Received: {split!r}")
    folder = synthesize(os.path.expanduser(cache_dir or DEFAULT_CACHE), advance)
    files = open_manifest(os.path.join(folder, f"{split}.tsv"), advance)
    words = sorted({t for t in files.transcripts if " " not in t})
    number = {word: i for i, word in enumerate(words)}
    digits = np.array([number.get(t, -1) for t in files.transcripts], "int64")
    return dataclasses.replace(
        files,
        name=f"builtin:{split} (synthetic speech in {folder})",
        labels={"digit": digits, "speaker": files.labels["class"]},
        class_names={"digit": tuple(words), "speaker": files.class_names["class"]},
    )


SPEECH_SOURCES = {
    "builtin": open_builtin,
    "folder": open_folder,
    "manifest": open_manifest,
    "table": open_table,
    "tfds": open_tfds,
    "tfrecord": open_tfrecord,
}


def measure_lengths(paths, advance=None):
    """Reads the headers of audio files, several at a time.

    Args:
        paths: list of N str.
        advance: optional callable(done, total).

    Returns:
        int64 array `[N]`, samples at 16 kHz, 0 where the header cannot be read; and a dict from the
        indices of those to the reason.
    """

    def measure(chunk):
        measured = []
        for path in chunk:
            try:
                measured.append((audio_length(path), None))
            except AudioError as error:
                measured.append((0, str(error)))
        return measured

    chunks = [paths[i : i + CHUNK] for i in range(0, len(paths), CHUNK)]
    lengths, problems = [], {}
    # More threads than cores: on a network drive they wait most of the time.
    with concurrent.futures.ThreadPoolExecutor(4 * (os.cpu_count() or 1)) as pool:
        for measured in pool.map(measure, chunks):
            for length, problem in measured:
                if problem:
                    problems[len(lengths)] = problem
                lengths.append(length)
            if advance:
                advance(len(lengths), len(paths))
    return np.array(lengths, "int64"), problems


def _class_folders(relative):
    """Labels and class names from the first level of folders below the one that all files share."""
    parts = [os.path.normpath(name).split(os.sep)[:-1] for name in relative]
    shared = len(os.path.commonprefix(parts))
    if not all(len(p) > shared for p in parts):
        return {}, {}
    classes = tuple(sorted({p[shared] for p in parts}))
    number = {name: i for i, name in enumerate(classes)}
    return {"class": np.array([number[p[shared]] for p in parts], "int64")}, {"class": classes}


def _read_lines(path, what):
    try:
        with open(path, encoding="utf-8-sig") as file:  # a byte order mark is no part of a path
            return file.read().removesuffix("\n").split("\n")
    except OSError as error:
        raise DataError(f"{what} cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError:
        raise DataError(f"{what} is not a text file.") from None


def _manifest_root(path, here, root, first):
    """The folder of a manifest's files."""
    if "\t" in root:
        raise DataError(
            f"data: manifest:{path} has {root!r} as its first line, which must be the folder of "
            "the files: '.' for the manifest's own."
        )
    folder = os.path.join(here, root)
    if os.path.isfile(os.path.join(folder, first)):
        return folder
    if root != "." and os.path.isfile(os.path.join(here, first)):
        raise DataError(
            f"data: manifest:{path} has {root!r} as its first line, and there is no {first} in it, "
            "but beside the manifest there is. Write '.' into the first line."
        )
    if not os.path.isdir(folder):
        raise DataError(
            f"data: manifest:{path} has {root!r} as its first line, which is not a folder. Write "
            "the folder of the files there: '.' for the manifest's own."
        )
    return folder  # that the first file is missing is said when it is read, as of any other


def _lengths_are_true(names, lengths):
    """Whether a few files have the lengths that are said, as samples at 16 kHz."""
    if (lengths < 0).any():
        return False
    for i in np.unique(np.linspace(0, len(names) - 1, NUM_CHECKED).astype(int)):
        try:
            # A rounded sample, or the padding that some tools count into an MP3.
            if abs(audio_length(names[i]) - lengths[i]) > 0.01 * lengths[i] + 1:
                return False
        except AudioError:
            pass  # is reported when it is read
    return True


def _manifest_transcripts(path, lines):
    """The transcripts beside a manifest, of the given lines, or `None`."""
    stem = os.path.splitext(path)[0]
    for ending in (".ltr", ".wrd", ".txt"):
        if not os.path.isfile(stem + ending):
            continue
        texts, expected = _read_lines(stem + ending, f"data: {stem}{ending}"), lines[-1] + 1
        while len(texts) > expected and not texts[-1].strip():
            texts.pop()
        if len(texts) != expected:
            raise DataError(
                f"data: {stem}{ending} has {len(texts)} transcripts for the {expected} files of "
                f"{path}; it must have one a line."
            )
        if ending == ".ltr":  # letters with spaces between, | after each word
            texts = [t.replace(" ", "").replace("|", " ") for t in texts]
        return [" ".join(texts[line].split()) for line in lines]
    return None


def _librispeech_transcripts(files, transcript_files):
    """The transcripts of LibriSpeech's `*.trans.txt`, lines of `ID TEXT`, or `None`."""
    texts = {}
    for path in transcript_files:
        for line in _read_lines(path, f"data: {path}"):
            name, _, text = line.partition(" ")
            texts[os.path.join(os.path.dirname(path), name)] = text.strip()
    stems = [os.path.splitext(file)[0] for file in files]
    return [texts[s] for s in stems] if texts and all(s in texts for s in stems) else None
