"""Turns, on a clock of the test's own, and what is said of their times."""

from d2v_tf.benchmark.timing import WARM_UP, quartiles, time_in_turns


def test_functions_take_turns_and_are_timed_after_the_warm_up():
    now, calls = [0.0], []

    def function(name, seconds):
        def call():
            # The first calls compile, and take longer.
            now[0] += 100.0 if calls.count(name) < WARM_UP else seconds
            calls.append(name)
            return []

        return call

    functions = {"short": function("short", 1.0), "long": function("long", 3.0)}
    seconds = time_in_turns(functions, 4, clock=lambda: now[0])
    assert seconds == {"short": [1.0] * 4, "long": [3.0] * 4}
    assert calls == ["short", "long"] * (WARM_UP + 4)


def test_the_middle_half():
    assert quartiles([5.0, 1.0, 2.0, 3.0, 4.0]) == {"median": 3.0, "low": 2.0, "high": 4.0}
