"""Documents out of files: where they begin and end, in whatever parts they are read."""

import gzip

import pytest

from d2v_tf.data import documents
from d2v_tf.data.documents import Segment, find_files, read_pieces, split_files
from d2v_tf.data.reading import DataError

TEXT = (
    "\n\n First line \nsecond\tline\r\n\n  \t\r\nAnother, naïve — document.\n\n\nlast\nwithout end"
)
DOCUMENTS = ["First line second\tline", "Another, naïve — document.", "last without end"]


def read(segments):
    """Texts of whole documents, and the number of invalid characters."""
    texts, text, invalid = [], "", 0
    for segment in segments:
        for piece in read_pieces(segment):
            text += piece.text
            invalid += piece.invalid
            if piece.ends:
                texts.append(text)
                text = ""
    assert not text
    return texts, invalid


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def test_a_document_ends_at_a_blank_line_or_at_the_files_end(tmp_path):
    files = [write(tmp_path / "a.txt", TEXT), write(tmp_path / "b.txt", "one")]
    assert read(map(Segment, files)) == ([*DOCUMENTS, "one"], 0)


def test_a_compressed_file_is_the_same(tmp_path):
    file = write(tmp_path / "a.txt.gz", gzip.compress(TEXT.encode()))
    assert read([Segment(file)]) == (DOCUMENTS, 0)
    assert split_files([file], 4) == [[Segment(file)]]


@pytest.mark.parametrize("content", ["", "\n\n \n", "\ufeff"])
def test_no_text_gives_no_document(tmp_path, content):
    assert read([Segment(write(tmp_path / "a.txt", content))]) == ([], 0)


def test_a_byte_order_mark_is_no_text(tmp_path):
    assert read([Segment(write(tmp_path / "a.txt", "\ufeffword"))]) == (["word"], 0)


def test_bytes_that_are_no_utf8_are_replaced_and_counted(tmp_path):
    # Latin-1, a cut character, and one that stands for such a byte in the file already.
    file = write(tmp_path / "a.txt", b"caf\xe9 \xc3\n\n\xef\xbf\xbd ok")
    assert read([Segment(file)]) == (["caf\ufffd \ufffd", "\ufffd ok"], 2)


@pytest.mark.parametrize("piece_bytes", [8, 16, 21, 64])
def test_pieces_make_up_the_same_documents_whatever_their_size(tmp_path, monkeypatch, piece_bytes):
    words = "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich 日本語".split()
    lines = [" ".join(words[: 2 + i % 9]) for i in range(40)]
    content = "\n".join(line + ("\n" if i % 7 == 6 else "") for i, line in enumerate(lines))
    file = write(tmp_path / "a.txt", content)
    expected, _ = read([Segment(file)])
    assert len(expected) == 6
    monkeypatch.setattr(documents, "PIECE_BYTES", piece_bytes)
    pieces = list(read_pieces(Segment(file)))
    assert max(len(piece.text.encode()) for piece in pieces) < 4 * piece_bytes + 32
    if piece_bytes >= 21:  # no word is longer
        assert read([Segment(file)]) == (expected, 0)
    else:
        joined = [text.replace(" ", "") for text in read([Segment(file)])[0]]
        assert joined == [text.replace(" ", "") for text in expected]


def test_a_line_without_end_is_read_in_pieces(tmp_path):
    content = b"word " * 200_000 + b"x" * 700_000 + "ü".encode() * 300_000
    pieces = list(read_pieces(Segment(write(tmp_path / "a.txt", content))))
    assert len(pieces) > 4
    assert max(len(piece.text.encode()) for piece in pieces) < 3 * documents.PIECE_BYTES
    assert [piece.ends for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert sum(piece.invalid for piece in pieces) == 0
    text = "".join(piece.text for piece in pieces)
    assert text.startswith("word " * 200_000)
    assert text.replace(" ", "") == content.decode().replace(" ", "")


@pytest.mark.parametrize("max_bytes", [1, 5, 30, 100, 10_000])
def test_segments_hold_every_document_once_and_in_order(tmp_path, max_bytes):
    files = [
        write(tmp_path / "a.txt", "\n\n".join(f"document {i}\nof two lines" for i in range(20))),
        write(tmp_path / "b.txt", "\n \n\r\n".join(f"wide {i}" for i in range(9)) + "\n\n\n"),
        write(tmp_path / "c.txt", "one line\n" * 30),
        write(tmp_path / "d.txt", ""),
        write(tmp_path / "e.txt.gz", gzip.compress(TEXT.encode())),
    ]
    expected = [f"document {i} of two lines" for i in range(20)]
    expected += [f"wide {i}" for i in range(9)]
    expected += [" ".join(["one line"] * 30), *DOCUMENTS]
    groups = split_files(files, max_bytes)
    assert read(segment for group in groups for segment in group) == (expected, 0)
    if max_bytes == 10_000:
        assert len(groups) == 1
    if max_bytes == 30:
        assert len(groups) > 10


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    whole = gzip.compress(b"some text\n" * 1000)
    for content in (b"no gzip at all", whole[:-20]):
        file = write(tmp_path / "broken.gz", content)
        with pytest.raises(DataError, match=r"broken.gz cannot be read"):
            read([Segment(file)])


def test_files_are_found_by_path_and_pattern(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    names = ["a.txt", "b [1].txt", "deep/er/c.txt"]
    files = [write(tmp_path / name, "x") for name in names]
    assert find_files(files[1]) == [files[1]]  # brackets in a path are no pattern
    assert find_files(f"{tmp_path}/*.txt") == files[:2]
    assert find_files(f"{tmp_path}/**/*.txt") == files


def test_nothing_to_read_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"text:.*\*.md names no file"):
        find_files(f"{tmp_path}/*.md")
    with pytest.raises(DataError, match=r"It is a folder"):
        find_files(str(tmp_path))
    write(tmp_path / "a.txt", "")
    with pytest.raises(DataError, match="all of its 1 files are empty"):
        find_files(f"{tmp_path}/*.txt")
