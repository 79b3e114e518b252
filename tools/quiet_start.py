"""Keeps from a terminal what TensorFlow says of itself at every start, and of files that are named
by the run."""

import contextlib
import glob
import os
import re
import signal

# No environment variable silences these: they are written before TensorFlow reads any.
BANNERS = [
    rb"All log messages before absl::InitializeLog\(\) is called are written to STDERR",
    rb"\] oneDNN custom operations are on\.",
    rb"\] Could not find cuda drivers on your machine, GPU will not be used\.",
    rb"\] This TensorFlow binary is optimized to use available CPU instructions",
    rb"^To enable the following instructions: .* rebuild TensorFlow with the appropriate compiler",
]
# Four lines each time that a broken image is met; a run names it once.
BROKEN_IMAGE = rb"\] (Premature end of|Corrupt) JPEG data|jpeg_mem\.cc:\d+\] "
# An error where there is a GPU, and the usual state where there is none.
NO_GPU = rb"\] failed call to cuInit: "


@contextlib.contextmanager
def without_banners():
    """Leaves TensorFlow's own lines out of what comes to stderr inside; other lines come through.

    They are written by C++, so the file descriptor is what is read. Another process reads it, and
    what TensorFlow says in its last moment comes through, too.
    """
    patterns = [*BANNERS, BROKEN_IMAGE, *([] if glob.glob("/dev/nvidia[0-9]*") else [NO_GPU])]
    banner = re.compile(b"|".join(patterns))
    stderr = os.dup(2)
    source, sink = os.pipe()
    reader = os.fork()
    if not reader:
        _copy(source, sink, stderr, banner)
    os.close(source)
    os.dup2(sink, 2)
    os.close(sink)
    try:
        yield
    finally:
        os.dup2(stderr, 2)  # closes the pipe, so the reader ends
        os.close(stderr)
        os.waitpid(reader, 0)


def _copy(source, sink, stderr, banner):
    """The life of the process that reads."""
    try:
        os.close(sink)
        os.dup2(stderr, 2)
        for number in (signal.SIGINT, signal.SIGTERM):  # it ends when the other one does
            signal.signal(number, signal.SIG_IGN)
        rest = b""
        while chunk := os.read(source, 1 << 16):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                if not banner.search(line):
                    os.write(stderr, line + b"\n")
        if rest and not banner.search(rest):
            os.write(stderr, rest)
    finally:
        os._exit(0)  # whatever happens: the rest of the program is the other one's
