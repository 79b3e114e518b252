"""What was logged over the updates, one panel a number, all runs in each."""

import numpy as np

from d2v_tf.reporting.figures import draw, escape
from d2v_tf.reporting.page import color_of, legend

# Keys of metrics.jsonl, what they are called on the page and their axis. Of several keys in a
# panel the second is dashed, the third dotted.
PANELS = (
    (("loss",), "loss", "linear"),
    (("target_var", "pred_var", "frontend_var"), "spread of targets, predictions", "linear"),
    (("learning_rate",), "learning rate", "linear"),
    (("ema_decay",), "EMA decay", "linear"),
    (("examples_per_second",), "examples a second", "from zero"),
    (("peak_host_bytes",), "memory, GB", "from zero"),
)
LINES = ("-", "--", ":")


def curves(records):
    """The panels of what is in the records' `metrics`, as HTML, and which color is which run."""
    shown = []
    for keys, title, axis in PANELS:
        keys = [key for key in keys if any(series(r.metrics, key)[0].size for r in records)]
        if keys:
            caption = title
            if len(keys) > 1:
                kinds = ("line", "dashed", "dotted")
                caption += ": " + ", ".join(
                    f"{key} {kind}" for key, kind in zip(keys, kinds, strict=False)
                )
            svg = draw(lambda f, k=keys, a=axis: _panel(f, records, k, a), 4.2, 2.5, caption)
            shown.append(f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>")
    runs = legend([record.name for record in records]) if len(records) > 1 else ""
    return f'{runs}<div class="panels">{"".join(shown)}</div>'


def series(metrics, key):
    """A number over the updates.

    Args:
        metrics: list of dict. What has no such number, or `None`, is left out.
        key: str.

    Returns:
        (int array of updates, float array).
    """
    pairs = [(r["step"], r[key]) for r in metrics if r.get(key) is not None]
    steps, values = zip(*pairs, strict=True) if pairs else ((), ())
    return np.array(steps, "int64"), np.array(values, "float64")


def _panel(figure, records, keys, axis):
    axes = figure.add_subplot()
    for i, record in enumerate(records):
        for key, line in zip(keys, LINES, strict=False):
            steps, values = series(record.metrics, key)
            scale = 1e9 if key.endswith("_bytes") else 1
            style = {"color": color_of(i), "linestyle": line}
            if len(steps) == 1:
                style["marker"] = "."
            axes.plot(steps, values / scale, **style)
    axes.set_xlabel("update")
    if axis == "from zero":
        axes.set_ylim(bottom=0)
