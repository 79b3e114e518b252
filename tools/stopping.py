"""How a tool ends whose run was stopped by Ctrl-C or SIGTERM."""

import shlex
import sys


def end_stopped(stopped, workdir):
    """Says which command continues the run, and exits as a process does that a signal ended.

    Args:
        stopped: `KeyboardInterrupt`, of a signal that has an `exit_status` of its own, say.
        workdir: str. The run's folder.
    """
    print(f"stopped; the same command continues the run in {workdir}:", file=sys.stderr)
    print(f"  {shlex.join([sys.executable, *sys.argv])}", file=sys.stderr)
    sys.exit(getattr(stopped, "exit_status", 130))
