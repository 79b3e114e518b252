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


def wait_for_moment(child, workdir, moment, rng):
    if moment == "starting":
        time.sleep(rng.uniform(0, 2))
    elif moment == "writing":
        while not glob.glob(f"{workdir}/checkpoints/*temp*") and not has_ended(child):
            time.sleep(0.0005)
    else:
        wait_for_steps(workdir, num_steps(workdir) + 1, child)
        time.sleep(rng.uniform(0, 0.3))


def main(config, folder, *overrides):
    recipe, rng = (config, overrides), random.Random(0)
    unbroken, killed = (os.path.join(folder, name) for name in ("unbroken", "killed"))
    output = os.path.join(folder, "output")
    statuses = [wait_for(live(recipe, unbroken, output, eagerly=True))]
    for number in range(KILLS):
        moment = MOMENTS[number % len(MOMENTS)]
        child = live(recipe, killed, output, dies_unnamed=moment == "unnamed", eagerly=True)
        if moment != "unnamed":
            wait_for_moment(child, killed, moment, rng)
            os.kill(child, signal.SIGKILL)
        statuses.append(wait_for(child))
    statuses.append(wait_for(live(recipe, killed, output, eagerly=True)))
    report(statuses=statuses)


if __name__ == "__main__":
    main(*sys.argv[1:])
