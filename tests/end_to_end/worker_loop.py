"""Two workers that are told to stop, start again and lose one; the run is ended by one replica.

And two that end a run of their own, which one replica makes, too.
"""

import os
import signal
import sys
import time

from tests.end_to_end.lives import free_addresses, live, num_steps, report, wait_for, wait_for_steps


def main(config, folder, *overrides):
    recipe = config, overrides
    workdir = os.path.join(folder, "run")
    output = [os.path.join(folder, name) for name in ("chief", "worker", "alone")]

    def start_two(recipe=recipe, workdir=workdir):
        cluster = free_addresses(2)
        return [live(recipe, workdir, output[i], cluster, i) for i in range(2)]

    chief, worker = start_two()
    wait_for_steps(workdir, 2, chief, worker)
    os.kill(worker, signal.SIGTERM)  # one machine is taken away
    stopped = wait_for(chief), wait_for(worker)
    steps = num_steps(workdir)

    def lose(number):
        """Kills one of two: the exit statuses of both, and the seconds that the other one took."""
        lives = start_two()
        wait_for_steps(workdir, num_steps(workdir) + 1, *lives)
        os.kill(lives[number], signal.SIGKILL)
        began = time.time()
        return [wait_for(one) for one in lives], time.time() - began

    lost, seconds = lose(1)
    lost_chief, seconds_without_chief = lose(0)

    alone = [
        wait_for(live(recipe, run, output[2]))
        for run in (workdir, os.path.join(folder, "unbroken"))
    ]
    short = config, [*overrides, "steps=3", "probe_every=2"]
    together = [wait_for(one) for one in start_two(short, os.path.join(folder, "together"))]
    apart = wait_for(live(short, os.path.join(folder, "apart"), output[2]))
    report(
        stopped=stopped,
        stopped_at=steps,
        lost=lost,
        seconds=seconds,
        lost_chief=lost_chief,
        seconds_without_chief=seconds_without_chief,
        alone=alone,
        together=[*together, apart],
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
