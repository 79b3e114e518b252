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
