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
    """The panels of what is in the records' `metrics`, as HTML."""
    return panels(records, PANELS, lambda record: record.metrics)


def panels(records, kinds, rows_of, marker=None):
    """Panels of numbers over the updates, as HTML, and which color is which run.

    Args:
        records: list of `RunRecord` or of `TuningRecord`.
        kinds: panels, as `PANELS` has them. Those of which there are no numbers are left out.
        rows_of: function of a record to a list of dict with `"step"`.
        marker: optional str, matplotlib's, for each point.
    """
    shown = []
    for keys, title, axis in kinds:
        keys = [key for key in keys if any(series(rows_of(r), key)[0].size for r in records)]
        if keys:
            caption = title
            if len(keys) > 1:
                lines = ("line", "dashed", "dotted")
                caption += ": " + ", ".join(
                    f"{key} {line}" for key, line in zip(keys, lines, strict=False)
                )
            of_runs = [[series(rows_of(r), key) for key in keys] for r in records]
            scale = 1e9 if keys[0].endswith("_bytes") else 1
            svg = draw(
                lambda f, n=of_runs, a=axis, s=scale: _panel(f, n, a, s, marker), 4.2, 2.5, caption
            )
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


def _panel(figure, of_runs, axis, scale, marker):
    axes = figure.add_subplot()
    for i, numbers in enumerate(of_runs):
        for (steps, values), line in zip(numbers, LINES, strict=False):
            style = {"color": color_of(i), "linestyle": line}
            if marker:
                style |= {"marker": marker, "markersize": 4}
            elif len(steps) == 1:
                style["marker"] = "."
            axes.plot(steps, values / scale, **style)
    axes.set_xlabel("update")
    if axis == "from zero":
        axes.set_ylim(bottom=0)
