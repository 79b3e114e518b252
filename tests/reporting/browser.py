"""A page in Debian's chromium, without a window."""

import shutil
import subprocess
import tempfile

import pytest

# As root in a container there is no sandbox; without the others it looks for Google's hosts.
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update --hide-scrollbars "
    "--window-size=1250,4000 --enable-logging=stderr"
).split()


def console_of(page, screenshot=None, dark=False):
    """What the browser says about a page on its console: list of str.

    Args:
        page: path.
        screenshot: optional path, of a PNG to be written.
        dark: bool. Whether the reader prefers dark pages.
    """
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium here: apt-get install chromium, and the page is looked at in it")
    with tempfile.TemporaryDirectory() as profile:
        done = subprocess.run(
            [
                chromium,
                *FLAGS,
                f"--user-data-dir={profile}",
                f"--blink-settings=preferredColorScheme={0 if dark else 1}",
                *([f"--screenshot={screenshot}"] if screenshot else ["--dump-dom"]),
                page.as_uri(),
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line]
