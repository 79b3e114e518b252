"""Cuts README's pictures out of reports: python docs/pictures/make.py REPORT.html NAME.

Writes NAME_light.png and NAME_dark.png beside this file, of the sections on masks and on features;
takes Debian's chromium.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

SECTIONS = ("Masks", "What the features see")
STYLE = """<style>
h2, .note { display: none; } body { padding: 12px; } .tokens { margin: 2px 0 14px; }
</style>"""
FLAGS = "--headless --no-sandbox --disable-gpu --hide-scrollbars --disable-background-networking"
MARGIN = 10  # pixels around what is to be seen
COLORS = 64  # of a picture; all together take less than 300 kB


def main(report, name, *count):
    """Writes both pictures.

    Args:
        report: str. A page of `tools/report.py`, of one run.
        name: str.
        count: at most one str. How many figures, or paragraphs of tokens, are kept in each section:
            all of them are too many for a README.
    """
    page = Path(report).read_text(encoding="utf-8")
    head, *sections = re.split(r"(?=<h2>)", page)
    kept = [s for s in sections if s.startswith(tuple(f"<h2>{title}<" for title in SECTIONS))]
    if count:
        kept = [_first(section, int(count[0])) for section in kept]
    with tempfile.TemporaryDirectory() as folder:
        cut = Path(folder) / "cut.html"
        cut.write_text(head.split("<body>")[0] + STYLE + "<body>" + "".join(kept), encoding="utf-8")
        for scheme, number in (("light", 1), ("dark", 0)):
            shot = Path(folder) / f"{scheme}.png"
            subprocess.run(
                [
                    "chromium",
                    *FLAGS.split(),
                    f"--user-data-dir={folder}/profile",
                    "--window-size=920,2000",
                    f"--blink-settings=preferredColorScheme={number}",
                    f"--screenshot={shot}",
                    cut.as_uri(),
                ],
                check=True,
                capture_output=True,
            )
            _trimmed(Image.open(shot)).quantize(COLORS).save(
                Path(__file__).with_name(f"{name}_{scheme}.png"), optimize=True
            )


def _first(section, count):
    examples = r'<p class="tokens">.*?</p>|<figure>.*?</figure>'
    for example in re.findall(examples, section, re.DOTALL)[count:]:
        section = section.replace(example, "")
    return section


def _trimmed(image):
    """Without the empty paper around it."""
    pixels = np.asarray(image.convert("RGB")).astype(int)
    rows, columns = np.nonzero(np.abs(pixels - pixels[-1, -1]).max(-1))
    box = (columns.min() - MARGIN, rows.min() - MARGIN, columns.max() + MARGIN, rows.max() + MARGIN)
    return image.convert("RGB").crop(box)


if __name__ == "__main__":
    main(*sys.argv[1:])
