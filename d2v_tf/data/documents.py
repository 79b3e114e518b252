"""Documents from text files: read in a stream, whatever the size of file and document."""

import dataclasses
import glob
import gzip
import os
import zlib

from d2v_tf.data.reading import DataError

# Text that is handled at once; a document or a line may be longer.
PIECE_BYTES = 1 << 18
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
REPLACEMENT = "\ufffd"


@dataclasses.dataclass(frozen=True)
class Segment:
    """A part of a file that begins and ends with whole documents.

    Attributes:
        path: str.
        start, stop: ints. First byte, and the one behind the last; -1 is the end.
    """

    path: str
    start: int = 0
    stop: int = -1


@dataclasses.dataclass
class Piece:
    """Some text of a document.

    Attributes:
        text: str. Its lines, stripped and joined by spaces. A piece that is not the document's
            first begins with the space that joins it.
        ends: bool. Whether the document ends with it.
        invalid: int. Characters that stand for bytes that were no UTF-8.
    """

    text: str
    ends: bool
    invalid: int = 0


def join_lines(text):
    """The lines of a text, stripped and joined by spaces; blank ones are left out."""
    return " ".join(line.strip() for line in text.split("\n") if line.strip())


def find_files(pattern):
    """The files that a path or a glob (`**` for folders in folders) names, sorted.

    Raises:
        DataError: where there is none, or none has a byte.
    """
    files = [pattern] if os.path.isfile(pattern) else glob.glob(pattern, recursive=True)
    files = sorted(file for file in files if os.path.isfile(file))
    if not files:
        hint = f" It is a folder: text:{pattern}/*.txt?" if os.path.isdir(pattern) else ""
        raise DataError(f"data: text:{pattern} names no file. Check the pattern; quote it.{hint}")
    if not sum(map(os.path.getsize, files)):
        raise DataError(
            f"data: text:{pattern} has no text: all of its {len(files)} files are empty."
        )
    return files


def split_files(files, max_bytes):
    """Groups files, and parts of large ones, by size.

    A plain file is cut at blank lines; a `.gz` file, whose middle cannot be found, is not cut.

    Args:
        files: list of str.
        max_bytes: int. A group ends where it has as many bytes or more.

    Returns:
        A list of lists of `Segment`; together they hold every document once, in order.
    """
    groups, group, size = [], [], 0
    for file in files:
        for segment, segment_size in _cut(file, max_bytes):
            group.append(segment)
            size += segment_size
            if size >= max_bytes:
                groups.append(group)
                group, size = [], 0
    return groups + [group] if group else groups


def _cut(path, max_bytes):
    size = os.path.getsize(path)
    if path.endswith(".gz") or size <= max_bytes:
        yield Segment(path), size
        return
    start = 0
    with open(path, "rb") as file:
        while start < size:
            stop = _next_document(file, start + max_bytes, size)
            yield Segment(path, start, stop), stop - start
            start = stop


def _next_document(file, position, size):
    """Where the first document begins that begins after `position`, or the end of the file."""
    if position >= size:
        return size
    file.seek(position)
    file.readline(PIECE_BYTES)  # the rest of a line, of which nothing is known
    at_line_start = False
    while line := file.readline(PIECE_BYTES):
        if at_line_start and line.endswith(b"\n") and not line.strip():
            return file.tell()
        at_line_start = line.endswith(b"\n")
    return size


def read_pieces(segment):
    """Reads the documents of a segment: a document ends at a blank line or at the end of a file.

    Bytes that are no UTF-8 become U+FFFD. Memory does not grow with file, document or line.

    Args:
        segment: `Segment`.

    Yields:
        `Piece`, first to last.

    Raises:
        DataError: where the file cannot be read.
    """
    try:
        with _open(segment) as file:
            yield from _pieces(file, segment)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"data: {segment.path} cannot be read ({error}). Remove it, or write it anew."
        ) from None


def _open(segment):
    if segment.path.endswith(".gz"):
        return gzip.open(segment.path, "rb")
    file = open(segment.path, "rb")
    file.seek(segment.start)
    return file


def _pieces(file, segment):
    lines, size, invalid = [], 0, 0  # of the piece that is being read
    begun = False  # whether the document has an earlier piece

    for raw, whole in _lines(file, segment):
        line = raw.decode("utf-8", "replace").strip()
        if line:
            # Those that the file itself has are text.
            invalid += line.count(REPLACEMENT) - raw.count(REPLACEMENT.encode())
            lines.append(line)
            size += len(raw)
        blank = whole and not line
        if (blank and (lines or begun)) or size >= PIECE_BYTES:
            yield Piece(_join(lines, begun), blank, invalid)
            lines, size, invalid, begun = [], 0, 0, not blank
    if lines or begun:
        yield Piece(_join(lines, begun), True, invalid)


def _join(lines, begun):
    return (" " if begun and lines else "") + " ".join(lines)


def _lines(file, segment):
    """Pairs of bytes, whether they are a whole line; long lines come in parts."""
    position, rest, whole = segment.start, b"", True
    while segment.stop < 0 or position < segment.stop:
        raw = file.readline(PIECE_BYTES)
        if not raw:
            break
        if position == 0:
            raw = raw.removeprefix(BYTE_ORDER_MARK)
        position = file.tell()
        line = rest + raw
        if raw.endswith(b"\n") or len(raw) < PIECE_BYTES:
            yield line, whole
            rest, whole = b"", True
        else:
            cut = _place_to_cut(line)
            yield line[:cut], False
            rest, whole = line[cut:], False
    if rest:
        yield rest, False


def _place_to_cut(line):
    """Behind the last word, or where there is none, behind the last character."""
    space = max(line.rfind(b" "), line.rfind(b"\t"))
    if space > 0:
        return space
    cut = len(line) - 1
    while cut > len(line) - 4 and 0x80 <= line[cut] < 0xC0:  # inside of a character
        cut -= 1
    return cut
