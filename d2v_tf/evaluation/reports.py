"""Writes down what was measured: JSON, tables, and a picture of the confusions."""

import json
import os

import numpy as np
from rich.markup import escape
from rich.table import Table

from d2v_tf.errors import UserError

# Classes whose numbers are written into the picture's cells.
MOST_WRITTEN = 20


def print_measurement(measurement, console):
    """Prints scores with their intervals, notes, and the worst examples.

    Args:
        measurement: `Measurement`.
        console: `rich` console.
    """
    table = Table("metric", "value", "95% interval", title=f"{measurement.num_examples:,} examples")
    for name, value in measurement.scores.items():
        low, high = measurement.intervals[name]
        table.add_row(name, f"{value:.4f}", f"{low:.4f} to {high:.4f}")
    console.print(table)
    for note in measurement.notes:
        console.print(f"note: {escape(note)}")
    worst = Table("worst examples", "true", "predicted", measurement.worst_by.replace("_", " "))
    for name, true, said, value in measurement.worst:
        worst.add_row(escape(name), escape(true), escape(said), f"{value:.3g}")
    console.print(worst)


def write_measurement(measurement, folder):
    """Writes `evaluation.json` and, for classes, `confusion.png`.

    Args:
        measurement: `Measurement`.
        folder: str. Made if missing.

    Returns:
        list of the paths written.

    Raises:
        UserError: where the folder cannot be written.
    """
    content = {
        "num_examples": measurement.num_examples,
        "scores": measurement.scores,
        "intervals": measurement.intervals,
        "notes": measurement.notes,
        "worst": [
            dict(zip(("name", "true", "predicted", measurement.worst_by), row, strict=True))
            for row in measurement.worst
        ],
        "class_names": measurement.class_names,
        "confusion": None if measurement.confusion is None else measurement.confusion.tolist(),
    }
    paths = [os.path.join(folder, "evaluation.json")]
    try:
        os.makedirs(folder, exist_ok=True)
        with open(paths[0], "w", encoding="utf-8") as file:
            json.dump(content, file, indent=2, ensure_ascii=False)
            file.write("\n")
        if measurement.confusion is not None:
            paths.append(os.path.join(folder, "confusion.png"))
            draw_confusion(measurement.confusion, measurement.class_names, paths[1])
    except OSError as error:
        raise UserError(f"--out={folder} cannot be written ({error.strerror}).") from None
    return paths


def draw_confusion(confusion, class_names, path):
    """Draws which class was taken for which, each row in parts of its examples.

    Args:
        confusion: int array `[C, C]`, a row a true class.
        class_names: optional C strings.
        path: str. A PNG file.
    """
    from matplotlib.figure import Figure  # without pyplot: no display is asked for

    number = len(confusion)
    names = class_names or [str(i) for i in range(number)]
    parts = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    size = min(3 + 0.45 * number, 20)
    figure = Figure(figsize=(size + 1, size), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(parts, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="part of the true class")
    if number <= 5 * MOST_WRITTEN:
        axes.set_xticks(range(number), names, rotation=90)
        axes.set_yticks(range(number), names)
    if number <= MOST_WRITTEN:
        for row in range(number):
            for column in range(number):
                color = "white" if parts[row, column] > 0.5 else "black"
                axes.text(
                    column, row, confusion[row, column], ha="center", va="center", color=color
                )
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    figure.savefig(path, dpi=120)
