"""How long a run still takes: the pace of its last updates, and what comes between updates."""

import collections
import contextlib
import statistics
import time

# The pace is that of so many last updates: steady, yet it follows a machine that slows down.
WINDOW = 100
# An update that takes so many times the median is one that compiles another shape.
COMPILES = 5


class TimeLeft:
    """Seconds until a run is done.

    An update's time is from the end of the one before to its own end, so waiting for data and
    writing logs count. The first one compiles and is left out. What is done between some updates
    alone is timed by itself and counted as often as it comes again.

    Args:
        steps: int. Updates of the whole run.
        every: optional dict of what is done between updates, and once after the last one, to the
            updates between two times; 0 = after the last one only.
    """

    def __init__(self, steps, every=None):
        self.steps, self.every = steps, every or {}
        self.paused = {}  # seconds that each of them took the last time
        self.tell = lambda kind: None  # called with what begins, and with `None` at its end
        self._updates = collections.deque(maxlen=WINDOW)
        self._last = None
        self._pauses = 0.0

    @contextlib.contextmanager
    def pause(self, kind):
        """What is inside is no training: `kind` is one of `every`, or another name."""
        began = time.perf_counter()
        self.tell(kind)
        try:
            yield
        finally:
            self.tell(None)
        self.paused[kind] = time.perf_counter() - began
        self._pauses += self.paused[kind]

    def remember(self, kind, seconds):
        """What an earlier life of the run wrote down that `kind` took."""
        self.paused[kind] = seconds

    def tick(self):
        """To be called at the end of each update."""
        now = time.perf_counter()
        if self._last is not None:
            self._updates.append(now - self._last - self._pauses)
        self._last, self._pauses = now, 0.0

    def seconds(self, step):
        """Seconds left after `step` updates, or `None` before two are made."""
        if not self._updates:
            return None
        median = statistics.median(self._updates)
        usual = [seconds for seconds in self._updates if seconds <= COMPILES * median]
        left = (self.steps - step) * sum(usual) / len(usual)
        for kind, every in self.every.items():
            times = (self.steps - 1) // every - step // every if every else 0
            left += (max(times, 0) + 1) * self.paused.get(kind, 0.0)
        return left
