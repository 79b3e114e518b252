"""Pictures that a page holds: drawings as SVG in the page's own color, pixels as PNG."""

import base64
import html
import io
import re
import warnings

import numpy as np
import tensorflow as tf

# What is drawn in it takes the color of the page's text, light or dark.
INK = "#747474"
# Legible on white and on black, and apart from each other for most color-blind people.
COLORS = (
    "#3b82d0", "#e07b1a", "#2f9e57", "#d0457a", "#8a63d2",
    "#9c6b3f", "#16a3a8", "#b8960c", "#7f8a99", "#d9534f",
)  # fmt: skip
STYLE = {
    **{f"{part}.color": INK for part in ("text", "xtick", "ytick", "grid")},
    **{f"axes.{part}": INK for part in ("edgecolor", "labelcolor", "titlecolor")},
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "lines.linewidth": 1.4,
    "legend.frameon": False,
    "text.parse_math": False,  # a name may hold a dollar sign
    "svg.fonttype": "none",
    "svg.hashsalt": "d2v_tf",
}


def draw(function, width, height, label):
    """A drawing as SVG, to stand in a page.

    Args:
        function: called with a matplotlib figure, draws on it.
        width, height: floats, in inches of 96 pixels.
        label: str. What is to be seen, for those who cannot see it.

    Returns:
        str.
    """
    import matplotlib
    from matplotlib.figure import Figure  # without pyplot: no display is asked for

    file = io.StringIO()
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        # The page's fonts are the browser's: what matplotlib's own lacks makes no difference.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure = Figure(figsize=(width, height), layout="constrained")
        function(figure)
        figure.savefig(file, format="svg", metadata={"Date": None})
    content = file.getvalue()
    content = content[content.index("<svg") :].replace(INK, "currentColor")
    size = r'width="[^"]*" height="[^"]*" viewBox'
    shown = f'style="max-width: {96 * width:.0f}px" role="img" aria-label="{escape(label)}" viewBox'
    return re.sub(size, lambda _: shown, content, count=1)


def png(pixels):
    """PNG bytes of uint8 `[H, W, 3]`."""
    return tf.io.encode_png(tf.constant(pixels, tf.uint8)).numpy()


def image(pixels, label, css="", width=None, height=None):
    """An `<img>` that holds its own pixels.

    Args:
        pixels: uint8 `[H, W, 3]`.
        label: str.
        css: str, a class.
        width, height: optional ints, on the page.
    """
    data = base64.b64encode(png(pixels)).decode()
    size = f' width="{width}"' if width else ""
    size += f' height="{height}"' if height else ""
    return (
        f'<img class="{css}"{size} alt="{escape(label)}" title="{escape(label)}" '
        f'src="data:image/png;base64,{data}">'
    )


def colored(values, colors="magma", low=None, high=None):
    """Numbers as colors: `[H, W]` -> uint8 `[H, W, 3]`; the least dark, the greatest light."""
    import matplotlib

    low = np.min(values) if low is None else low
    high = np.max(values) if high is None else high
    part = (np.asarray(values) - low) / max(high - low, 1e-12)
    return matplotlib.colormaps[colors](np.clip(part, 0, 1), bytes=True)[..., :3]


def principal_colors(features):
    """The first three principal components of features, as red, green and blue.

    Args:
        features: list of arrays `[T, D]`; the components are those of all of them together.

    Returns:
        list of uint8 arrays `[T, 3]`.
    """
    rows = np.concatenate(features).astype("float32")
    rows = rows - rows.mean(axis=0)
    _, _, axes = np.linalg.svd(rows.T @ rows)  # [D, D]: the axes are the same, and D is small
    parts = rows @ axes[:3].T
    if parts.shape[1] < 3:
        parts = np.pad(parts, ((0, 0), (0, 3 - parts.shape[1])))
    low, high = np.percentile(parts, (2, 98), axis=0)
    colors = np.clip((parts - low) / np.maximum(high - low, 1e-9), 0, 1)
    ends = np.cumsum([len(f) for f in features])[:-1]
    return np.split((255 * colors).astype("uint8"), ends)


def enlarged(pixels, factor):
    """Each pixel as a square of so many: `[H, W, ...]` -> `[factor H, factor W, ...]`."""
    return np.repeat(np.repeat(pixels, factor, axis=0), factor, axis=1)


def escape(text):
    return html.escape(str(text), quote=True)
