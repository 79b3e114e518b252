"""TensorFlow's start-up lines stay away from the terminal; everything else comes through."""

import subprocess
import sys
from pathlib import Path

TOOLS = Path(__file__).resolve().parents[1] / "tools"
CODE = """
import os, sys
from quiet_start import without_banners
with without_banners():
    os.write(2, b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\\n")
    os.write(2, b"I0000 port.cc:153] oneDNN custom operations are on. You may see\\nE0000 x.cc:1] a real err")
    os.write(2, b"or\\nE0000 jpeg_mem.cc:331] Premature end of JPEG data. Stopped at line 0/178\\n")
    os.write(2, b"I0000 cudart_stub.cc:31] Could not find cuda drivers on your machine, GPU will not be used.\\n")
    print("from Python", file=sys.stderr)
    os.write(2, b"no end of line")
    if sys.argv[1:]:
        os.abort()
os.write(2, b", then oneDNN custom operations are on.\\n")
"""  # noqa: E501


def said(*arguments):
    done = subprocess.run(
        [sys.executable, "-c", CODE, *arguments], cwd=TOOLS, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    return done.stderr


def test_only_the_banners_are_left_out():
    kept = "E0000 x.cc:1] a real error\nfrom Python\nno end of line"
    assert said() == f"{kept}, then oneDNN custom operations are on.\n"


def test_last_words_come_through():
    assert said("abort").startswith("E0000 x.cc:1] a real error\nfrom Python\nno end of line")


INSIDE = """
import os, sys, time
from quiet_start import without_banners
with without_banners():
    {0}
print("after", file=sys.stderr)
"""


def outcome(code, **options):
    return subprocess.run(
        [sys.executable, "-c", INSIDE.format(code)], cwd=TOOLS, text=True, timeout=30, check=False,
        **{"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, **options},
    )  # fmt: skip


def test_a_process_that_outlives_the_context_keeps_nobody_waiting():
    """As the one by which Python's multiprocessing tracks what it shares."""
    code = "import subprocess; subprocess.Popen(['sleep', '60']); os.write(2, b'last')"
    done = outcome(code, stderr=subprocess.DEVNULL)
    assert done.returncode == 0


def test_sigterm_to_all_leaves_the_last_words(tmp_path):
    path = tmp_path / "stderr"
    code = "signal.signal(15, lambda *_: (print('stopped', file=sys.stderr), sys.exit(143)))"
    code = f"import signal; {code}; os.killpg(0, 15); time.sleep(20)"
    with open(path, "w") as file:
        done = outcome(code, stderr=file, start_new_session=True)
    assert done.returncode == 143 and path.read_text() == "stopped\n"


def test_a_stderr_that_fails_is_no_end():
    code = "[print('line', file=sys.stderr, flush=True) or time.sleep(0.1) for _ in range(5)]"
    with open("/dev/full", "w") as full:
        done = outcome(f"{code}; print('through')", stdout=subprocess.PIPE, stderr=full)
    assert done.stdout == "through\n"


def test_a_line_that_is_not_ended_is_shown_meanwhile():
    process = subprocess.Popen(
        [sys.executable, "-c", INSIDE.format("os.write(2, b'10%'); time.sleep(60)")],
        cwd=TOOLS, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr.read(3) == b"10%"
    process.kill()
    process.communicate()
