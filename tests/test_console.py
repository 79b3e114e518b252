"""Bars and colors are for terminals."""

import os
import pty
import subprocess
import sys

SCRIPT = """
from d2v_tf.console import open_console
console = open_console()
print(console.is_interactive, console.color_system is not None)
"""


def answer(**environ):
    """What a console says of itself in a pipe."""
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=True,
    )
    return ran.stdout.split()


def answer_on_terminal(**environ):
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT], env={**os.environ, **environ}, stdout=theirs
    ) as process:
        process.wait()
    os.close(theirs)
    with os.fdopen(ours, "rb", buffering=0) as file:
        return file.read(100).decode().split()


def test_a_pipe_gets_plain_lines_and_colors_only_if_they_are_forced():
    assert answer() == ["False", "False"]
    assert answer(FORCE_COLOR="1", TERM="xterm") == ["False", "True"]


def test_a_terminal_gets_a_bar_if_it_can_redraw():
    assert answer_on_terminal(TERM="xterm") == ["True", "True"]
    assert answer_on_terminal(TERM="dumb")[0] == "False"
