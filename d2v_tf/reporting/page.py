"""One HTML file that needs nothing else: style, tables and pictures are inside."""

import os
import re

from d2v_tf.reporting.figures import COLORS, escape

# What is apart from the numbered colors, one of which is a gray.
REST_COLOR = "#88888860"
# The page may load nothing; a browser says so on its console where something tries to.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
CSS = """
:root { color-scheme: light dark; --ink: #1f2328; --soft: #59636e; --paper: #ffffff;
        --line: #d1d9e0; --box: #f6f8fa; --hide: #ffd8a8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --soft: #9aa4af; --paper: #0d1117; --line: #3d444d; --box: #161b22;
          --hide: #7a4a12; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem; max-width: 76rem; color: var(--ink);
       background: var(--paper); font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .3rem; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .4rem; padding-top: .8rem;
     border-top: 1px solid var(--line); }
h3 { font-size: .95rem; margin: .8rem 0 .3rem; }
p.note, figcaption, .soft { color: var(--soft); font-size: .87rem; margin: .2rem 0 .7rem; }
p.warning { background: var(--box); border-left: 4px solid #e07b1a; padding: .4rem .7rem; }
table { border-collapse: collapse; margin: .4rem 0; }
th, td { padding: .15rem .9rem .15rem 0; text-align: left; vertical-align: top; }
th { font-weight: 600; color: var(--soft); }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
tbody tr, thead tr { border-bottom: 1px solid var(--line); }
pre { background: var(--box); padding: .7rem; overflow-x: auto; font-size: .82rem; }
svg { width: 100%; height: auto; }
img { max-width: 100%; display: block; }
img.pixels { image-rendering: pixelated; }
figure { margin: 0; }
.panels { display: grid; gap: .8rem;
          grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); }
.panels figure { max-width: 27rem; }
.runs { display: grid; gap: 2rem;
        grid-template-columns: repeat(auto-fit, minmax(min(30rem, 100%), 1fr)); }
.run { min-width: 0; overflow-x: auto; }
.wide { overflow-x: auto; }
table.grid td, table.grid th { padding: 0 .3rem .3rem 0; vertical-align: middle; border: 0; }
table.grid th { width: 9rem; font-weight: 400; font-size: .85rem; padding-right: .8rem; }
table.grid tr { border: 0; }
.neighbors { display: grid; grid-template-columns: repeat(6, minmax(0, 1fr)); gap: .6rem;
             padding: .4rem 0; border-bottom: 1px solid var(--line); font-size: .82rem;
             max-width: 60rem; }
.neighbors > :first-child { border-right: 2px solid var(--line); padding-right: .5rem; }
.dot { display: inline-block; width: .75em; height: .75em; border-radius: 50%;
       margin-right: .35em; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1rem; font-size: .85rem; }
.tokens { white-space: pre-wrap; line-height: 1.9; margin: .3rem 0; max-width: 60rem; }
.tokens span { border-radius: 3px; padding: .1em 0; }
.tokens .hidden { background: var(--hide); text-decoration: underline dotted; }
.tokens .special { color: var(--soft); font-size: .8em; }
.tokens .colored { color: #fff; text-shadow: 0 0 3px #000, 0 0 2px #000; }
table.heat { font-size: .68rem; line-height: 1; border-spacing: 1px; border-collapse: separate; }
table.heat th { font-weight: 400; padding: 0 .3rem 0 0; white-space: pre; text-align: right; }
table.heat thead th { writing-mode: vertical-rl; transform: rotate(180deg); padding: 0; }
table.heat td { width: 1.05rem; height: 1.05rem; padding: 0; }
table.heat tr { border: 0; }
"""


def write_page(path, title, parts, step=None):
    """Writes a page, in place of what is there once it is whole.

    Args:
        path: str.
        title: str.
        parts: list of str, HTML.
        step: optional int. The update that it shows a run after, which `step_of` finds again.
    """
    body = "\n".join(parts)
    mark = "" if step is None else f'<meta name="d2v-step" content="{step}">\n'
    content = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n{mark}'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n{body}\n"
        "</body>\n</html>\n"
    )
    temporary = f"{path}.tmp"
    # A file name that is no UTF-8 is shown as far as it goes.
    with open(temporary, "w", encoding="utf-8", errors="replace") as file:
        file.write(content)
    os.replace(temporary, path)


def step_of(path):
    """The update that a page shows a run after; `None` where it does not say, or is not there."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            head = file.read(1000)
    except OSError:
        return None
    found = re.search(r'<meta name="d2v-step" content="(\d+)">', head)
    return int(found.group(1)) if found else None


def section(title, note, *content):
    """A headed part of the page, with a line that says how to read it."""
    return "\n".join([f"<h2>{escape(title)}</h2>", f'<p class="note">{escape(note)}</p>', *content])


def warning(line):
    """Something that is missing from the page, and why."""
    return f'<p class="warning">{escape(line)}</p>'


def table(head, rows):
    """A table of text and numbers.

    Args:
        head: list of str; empty for a table without a head.
        rows: list of rows of str, or of numbers, which are set to the right.
    """

    def cell(value):
        if isinstance(value, int | float):
            text = f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
            return f'<td class="number">{text}</td>'
        return f"<td>{escape(value)}</td>"

    names = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
    return f"<table><thead><tr>{names}</tr></thead><tbody>{body}</tbody></table>"


def wide(content):
    """What is scrolled by itself where the window is narrower."""
    return f'<div class="wide">{content}</div>'


def grid(rows):
    """Pictures in rows.

    Args:
        rows: list of (str, what a row shows; list of HTML).
    """
    body = "".join(
        f"<tr><th>{escape(name)}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
        for name, cells in rows
    )
    return f'<table class="grid"><tbody>{body}</tbody></table>'


def color_of(number):
    """The color of a run or a class, by its number."""
    return COLORS[number % len(COLORS)]


def dot(number):
    """The spot of color that stands for a run or a class."""
    return _spot(color_of(number))


def legend(names, rest=""):
    """Spots of color and what they stand for.

    Args:
        names: list of str, of runs or classes by their numbers.
        rest: str. What has none of their colors; empty where there is no such thing.
    """
    spots = [(dot(i), name) for i, name in enumerate(names)]
    spots += [(_spot(REST_COLOR), rest)] if rest else []
    items = "".join(f"<span>{spot}{escape(name)}</span>" for spot, name in spots)
    return f'<div class="legend">{items}</div>'


def _spot(color):
    return f'<span class="dot" style="background: {color}"></span>'


def side_by_side(records, content):
    """What each run shows, in columns.

    Args:
        records: list of `RunRecord` or of `TuningRecord`, all of the page's: a run has one color
            everywhere.
        content: list of str, HTML, one a run; `None` where a run has nothing to show.
    """
    heads = [""] * len(records)
    if len(records) > 1:
        heads = [f"<h3>{dot(i)}{escape(r.name)}</h3>" for i, r in enumerate(records)]
    columns = "".join(
        f'<div class="run">{head}{part}</div>'
        for head, part in zip(heads, content, strict=True)
        if part is not None
    )
    return f'<div class="runs">{columns}</div>'
