"""What the frozen features were worth over the updates, beside what they have to beat."""

from d2v_tf.reporting.figures import INK, draw, escape
from d2v_tf.reporting.page import color_of, table

MEASURES = (("linear", "linear probe", "-"), ("knn", "nearest neighbors", "--"))


def probes(records):
    """A figure a task and the table of all scores, as HTML."""
    tasks = list(dict.fromkeys(p["task"] for r in records for p in r.probes))
    figures = []
    for task in tasks:
        label = f"probe of {task}: accuracy, %, over the updates"
        svg = draw(lambda f, t=task: _task(f, records, t), 5.2, 3.4, label)
        figures.append(f"<figure>{svg}<figcaption>{escape(label)}</figcaption></figure>")
    rows = [
        [
            *([record.name] if len(records) > 1 else []),
            p["of"], p["step"], p["task"], p.get("test_examples", ""),
            round(100 * p["knn"], 1), round(100 * p["linear"], 1),
        ]
        for record in records
        for p in record.probes
    ]  # fmt: skip
    run = ["run"] if len(records) > 1 else []
    head = [*run, "features of", "update", "task", "tested on", "kNN, %", "linear probe, %"]
    return f'<div class="panels">{"".join(figures)}</div>' + table(head, rows)


def _task(figure, records, task):
    axes, drawn = figure.add_subplot(), set()
    for i, record in enumerate(records):
        own = [p for p in record.probes if p["task"] == task]
        # A run's baseline is of no update: a level to reach.
        trained = [p for p in own if p["step"] or p["of"] in ("untrained", "initial")]
        levels = [p for p in own if p not in trained]
        of_run = f" ({record.name})" if len(records) > 1 else ""
        for key, name, line in MEASURES:
            axes.plot(
                [p["step"] for p in trained],
                [100 * p[key] for p in trained],
                line,
                color=color_of(i),
                marker="o",
                markersize=3,
                label=f"{name}{of_run}",
            )
            for level in levels:
                height = round(100 * level[key], 1)
                if (level["of"], key, height) in drawn:  # runs on the same data have the same one
                    continue
                drawn.add((level["of"], key, height))
                axes.axhline(
                    height,
                    linestyle=line if len(records) == 1 else {"-": ":", "--": "-."}[line],
                    color=INK if len(records) == 1 else color_of(i),
                    linewidth=1.2,
                    label=f"{name} on {level['of']}{of_run}",
                )
    axes.set_xlabel("update")
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
