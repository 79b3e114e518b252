"""Fine-tuning runs on one page: what ran, its curves, its scores, and what it heard."""

import dataclasses
import difflib
import statistics

from d2v_tf.reporting.curves import curves, panels
from d2v_tf.reporting.figures import escape
from d2v_tf.reporting.overview import facts_of_starts, overview
from d2v_tf.reporting.page import section, side_by_side, table, wide, write_page
from d2v_tf.schema.common import COMPILERS


@dataclasses.dataclass
class TuningRecord:
    """A fine-tuning run, finished or not.

    Attributes:
        name: str. What it is called on the page.
        group: str. What it is called together with the runs of other seeds; else its name.
        workdir: str.
        recipe: its `FinetuneRecipe`.
        recipe_text: str. The same as YAML.
        metric: str. The score that decides what is best.
        higher_is_better: bool.
        metrics: list of dict, what was logged, oldest first.
        evaluations: list of dict, of `evaluations.jsonl`.
        starts: list of dict, of `starts.jsonl`. Runs older than it have none.
    """

    name: str
    group: str
    workdir: str
    recipe: object
    recipe_text: str
    metric: str
    higher_is_better: bool
    metrics: list
    evaluations: list
    starts: list

    @property
    def best(self):
        """The evaluation whose weights were kept, the earliest of equals, or `None`."""
        scored = [e for e in self.evaluations if e.get(self.metric) is not None]
        sign = 1 if self.higher_is_better else -1
        return max(scored, key=lambda e: sign * e[self.metric], default=None)

    def facts(self):
        """What ran: dict of str."""
        recipe, newest = self.recipe, self.starts[-1] if self.starts else {}
        step = self.metrics[-1]["step"] if self.metrics else 0
        fraction = "" if recipe.label_fraction == 1 else f", {recipe.label_fraction:.3g} of it"
        facts = {
            "task": f"{recipe.task}, {recipe.modality}",
            "started from": recipe.init,
            "data": f"{recipe.data.source}{fraction}",
            "tested on": newest.get("tested_on") or recipe.data.eval_source,
            "updates": f"{step:,} of {newest['steps']:,}" if "steps" in newest else f"{step:,}",
            "batch": f"{recipe.batch_size:,}",
            "numbers": f"{recipe.precision}, {COMPILERS.get(recipe.xla, recipe.xla)}",
            "folder": self.workdir,
        }
        if self.best:
            score = f"{self.metric} {self.best[self.metric]:.4g}"
            facts["best"] = f"{score} after {self.best['step']:,} updates"
        if "examples" in newest:
            facts["examples"] = f"{newest['examples']:,}"
        known = {name: fact for name, fact in facts.items() if fact is not None}
        return known | facts_of_starts(self.starts)


def write_tuning_report(records, path):
    """Writes a page that shows how models trained on labels, and how well they did.

    Args:
        records: list of `TuningRecord`.
        path: str. One HTML file, which needs nothing else.

    Raises:
        OSError: where it cannot be written.
    """
    names = " and ".join(dict.fromkeys(record.group for record in records))
    parts = [f"<h1>{escape(names)}</h1>", overview(records)]
    if any(record.evaluations for record in records):
        note = (
            "On what was held out. Confidence intervals, confusions and the worst examples: "
            "tools/evaluate.py --model=RUN --data=... --out=DIR."
        )
        parts.append(section("Scores", note, scores(records)))
    heard = [samples(record) for record in records]
    if any(heard):
        note = "The first recordings, as the kept weights heard them; what differs is marked."
        parts.append(section("What was said and heard", note, side_by_side(records, heard)))
    if any(record.metrics for record in records):
        note = "The loss is that of training, with its dropout, masks and augmentation."
        parts.append(section("Over the updates", note, curves(records)))
    write_page(path, f"{names}: report of fine-tuning", parts)


def scores(records):
    """A panel a score, the best of each run and of all seeds, and all evaluations, as HTML."""
    names = list(dict.fromkeys(n for r in records for e in r.evaluations for n in numbers_in(e)))
    shown = panels(
        records, [((name,), name, "linear") for name in names], lambda r: r.evaluations, "o"
    )

    def row(record, evaluation):
        numbers = (evaluation.get(name) for name in names)
        return [
            record.name,
            evaluation["step"],
            *("-" if number is None else float(number) for number in numbers),
        ]

    best = [record for record in records if record.best]
    if best:
        rows = [row(record, record.best) for record in best]
        shown += "<h3>The best, whose weights are kept</h3>"
        shown += wide(table(["run", "update", *names], [*rows, *means(best, names)]))
    rows = [
        [*row(record, evaluation), "best" if evaluation is record.best else ""]
        for record in records
        for evaluation in record.evaluations
    ]
    every = wide(table(["run", "update", *names, ""], rows))
    return f"{shown}<details><summary>all evaluations</summary>{every}</details>"


def means(records, names):
    """Rows of a table: the mean and the deviation of what the seeds of a folder reached."""
    rows = []
    for group in dict.fromkeys(record.group for record in records):
        best = [record.best for record in records if record.group == group]
        if len(best) > 1:
            columns = [[b[n] for b in best if b.get(n) is not None] for n in names]
            spread = (
                f"{statistics.mean(c):.4g} ± {statistics.stdev(c):.2g}" if len(c) > 1 else "-"
                for c in columns
            )
            rows.append([f"{group}, {len(best)} seeds", "", *spread])
    return rows


def numbers_in(evaluation):
    """The names of an evaluation's scores."""
    left_out = ("step", "seconds")
    numbers = (k for k, v in evaluation.items() if v is None or isinstance(v, int | float))
    return [name for name in numbers if name not in left_out]


def samples(record):
    """What a recognizer heard at its best evaluation, as HTML; `None` where there is none."""
    pairs = (record.best or {}).get("samples")
    if not pairs:
        return None
    lines = []
    for said, heard in pairs:
        marked = " ".join(_mark(said.split(), heard.split()))
        lines.append(f'<p class="tokens"><span class="soft">{escape(said)}</span><br>{marked}</p>')
    return "".join(lines)


def _mark(said, heard):
    """The words that were heard, as HTML; for those that were left out stands a …."""
    for kind, i, j, k, m in difflib.SequenceMatcher(None, said, heard, False).get_opcodes():
        words = escape(" ".join(heard[k:m])) or ("…" if i < j else "")
        if words:
            yield words if kind == "equal" else f'<span class="hidden">{words}</span>'
