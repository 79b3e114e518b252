"""One process a folder, also on file systems that cannot lock files."""

import contextlib
import errno
import fcntl
import os
import secrets
import socket
import threading
import time

# What `flock` says where the file system has none: Lustre without it, NFS without its lock service.
NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}
# Seconds. Who holds a folder by a file touches that so often; a file that was not touched for so
# long is of a process that was killed. Machines' clocks are not compared.
BEAT, SILENCE = 5.0, 45.0


class FolderInUse(Exception):
    """Another process holds the folder; the message says what is known of it."""


@contextlib.contextmanager
def hold_folder(folder):
    """Holds a folder for as long as the context lasts.

    By `flock` on the file `.lock`, which ends with the process, however that ends. Where a file
    system has no locks, by a file `.lock.held` that is made only where there is none.

    Args:
        folder: str. Has to exist.

    Raises:
        FolderInUse: at once, or after `SILENCE` seconds where it takes looking.
        OSError: where nothing can be written.
    """
    with open(os.path.join(folder, ".lock"), "w", encoding="utf-8") as lock:
        by = contextlib.nullcontext()
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderInUse("by another run") from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            by = _hold_by_file(os.path.join(folder, ".lock.held"))
        with by:
            yield


@contextlib.contextmanager
def _hold_by_file(path):
    own = f"process {os.getpid()} of {socket.gethostname()} ({secrets.token_hex(4)})"
    if not _create(path, own):
        _clear_away(path)
        if not _create(path, own):
            raise FolderInUse(_holder(path))
    ended = threading.Event()
    thread = threading.Thread(target=_keep_touching, args=(path, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        if _read(path) == own:
            os.remove(path)


def _create(path, own):
    """Makes the file, unless there is one: whether it was made."""
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(own)
    except FileExistsError:
        return False
    return True


def _clear_away(path):
    """Removes the file of a process that was killed.

    Raises:
        FolderInUse: where its process is alive, as far as one sees in `SILENCE` seconds.
    """
    first, began = _state(path), time.monotonic()
    while time.monotonic() - began < SILENCE:
        time.sleep(BEAT / 5)
        if _state(path) != first:
            raise FolderInUse(_holder(path))
    aside = f"{path}.{secrets.token_hex(4)}"
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return  # another one was faster
    # Between looking and renaming, another one may have made a file of its own.
    if _state(aside) != first:
        with contextlib.suppress(OSError):
            os.link(aside, path)
        os.remove(aside)
        raise FolderInUse(_holder(path))
    os.remove(aside)


def _state(path):
    """What changes when the file is touched or is another one; `None` where there is none."""
    try:
        # Opened, because NFS asks its server then, and answers from memory otherwise.
        with open(path, encoding="utf-8") as file:
            return os.fstat(file.fileno()).st_mtime_ns, file.read()
    except FileNotFoundError:
        return None


def _read(path):
    state = _state(path)
    return state and state[1]


def _holder(path):
    return f"by {_read(path) or 'another run'}"


def _keep_touching(path, ended):
    while not ended.wait(BEAT):
        with contextlib.suppress(OSError):  # a moment without the server; the next one may do
            os.utime(path)
