"""Where the command line's lines go."""

import sys

from rich.console import Console


def open_console(stderr=False):
    """A `rich` console for a tool: a bar and colors on a terminal, plain lines elsewhere.

    `FORCE_COLOR` and the like give colors to a log file, but no bar, which a file cannot redraw.

    Args:
        stderr: bool. Whether it is standard error that is written to.
    """
    stream = sys.stderr if stderr else sys.stdout
    interactive = None if stream.isatty() else False
    return Console(highlight=False, soft_wrap=True, stderr=stderr, force_interactive=interactive)
