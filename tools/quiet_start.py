"""Keeps from a terminal what TensorFlow says of itself at every start, and of files that are named
by the run."""

import contextlib
import glob
import os
import re
import select
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


# Seconds after which a line that nobody ends is shown: no banner comes in pieces.
SILENCE = 0.2


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
    is_over, say_over = os.pipe()
    # For ever in the reader, which ends when the other one does.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])
    reader = os.fork()
    if not reader:
        os.close(sink)
        os.close(say_over)
        _copy(source, is_over, stderr, banner)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    os.close(source)
    os.close(is_over)
    os.dup2(sink, 2)
    os.close(sink)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        # A process that was started inside may hold the pipe for longer: its end is no sign.
        with contextlib.suppress(OSError):  # somebody may have killed the reader
            os.write(say_over, b".")
        os.close(say_over)
        os.waitpid(reader, 0)


def _copy(source, is_over, stderr, banner):
    """The life of the process that reads."""
    try:
        os.dup2(stderr, 2)
        rest, over = b"", False
        while True:
            wait = 0 if over else SILENCE if rest else None
            ready, _, _ = select.select([source] if over else [source, is_over], [], [], wait)
            over = over or is_over in ready  # told, or the other process is gone
            chunk = os.read(source, 1 << 16) if source in ready else b""
            *lines, rest = re.split(rb"(?<=[\r\n])", rest + chunk)
            for line in lines:
                if not banner.search(line):
                    _write(stderr, line)
            ended = source in ready and not chunk
            if rest and (ended or not ready):
                if not banner.search(rest):
                    _write(stderr, rest)
                rest = b""
            if ended or (over and source not in ready and is_over not in ready):
                break
    finally:
        os._exit(0)  # whatever happens: the rest of the program is the other one's


def _write(file, line):
    """Writes all of it; where that fails, such as on a full disk, what follows may still come."""
    with contextlib.suppress(OSError):
        while line:
            line = line[os.write(file, line) :]
