"""Kills a run twenty times, at moments of every kind, and lets it end; prints what it saw."""

import glob
import os
import random
import signal
import sys
import time

from tests.end_to_end.lives import has_ended, live, num_steps, report, wait_for, wait_for_steps

KILLS = 20
MOMENTS = ("training", "writing", "unnamed", "training", "starting")
# Seconds by which the clock of some lives is behind that of the others.
BEHIND = 1_000_000


def wait_for_moment(child, workdir, moment, rng):
    if moment == "starting":
        time.sleep(rng.uniform(0, 2))
    elif moment == "writing":
        while not is_writing(child, workdir) and not has_ended(child):
            time.sleep(0.0005)
    else:
        wait_for_steps(workdir, num_steps(workdir) + 1, child)
        time.sleep(rng.uniform(0, 0.3))


def is_writing(child, workdir):
    """Whether a checkpoint is half written; it then stays so."""
    if not glob.glob(f"{workdir}/checkpoints/*_temp"):
        return False
    os.kill(child, signal.SIGSTOP)
    os.waitid(os.P_PID, child, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    for part in glob.glob(f"{workdir}/checkpoints/*_temp"):
        if not os.path.exists(f"{part.removesuffix('_temp')}.index"):
            return True
    os.kill(child, signal.SIGCONT)
    return False


def main(config, folder, *overrides):
    recipe, rng = (config, overrides), random.Random(0)
    unbroken, killed = (os.path.join(folder, name) for name in ("unbroken", "killed"))
    output = os.path.join(folder, "output")
    statuses, half_written = [wait_for(live(recipe, unbroken, output, eagerly=True))], 0
    for number in range(KILLS):
        moment = MOMENTS[number % len(MOMENTS)]
        options = {
            "dies_unnamed": moment == "unnamed",
            "behind": BEHIND * (number % 3 == 2),
            "in_background": number % 2 == 1,
        }
        child = live(recipe, killed, output, eagerly=True, **options)
        if moment != "unnamed":
            wait_for_moment(child, killed, moment, rng)
            os.kill(child, signal.SIGKILL)
        statuses.append(wait_for(child))
        if moment == "writing":
            half_written += len(glob.glob(f"{killed}/checkpoints/*_temp"))
    statuses.append(wait_for(live(recipe, killed, output, eagerly=True)))
    report(statuses=statuses, half_written=half_written)


if __name__ == "__main__":
    main(*sys.argv[1:])
