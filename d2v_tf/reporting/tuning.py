"""Fine-tuning runs on one page: what ran, its curves, its scores, and what it heard."""

import dataclasses
import difflib

from d2v_tf.reporting.curves import curves, panels
from d2v_tf.reporting.figures import escape
from d2v_tf.reporting.overview import overview
from d2v_tf.reporting.page import section, side_by_side, table, write_page
from d2v_tf.reporting.record import facts_of_starts
from d2v_tf.schema.common import COMPILERS


@dataclasses.dataclass
class TuningRecord:
    """A fine-tuning run, finished or not.

    Attributes:
        name: str. What it is called on the page.
        workdir: str.
        recipe: its `FinetuneRecipe`.
        recipe_text: str. The same as YAML.
        metrics: list of dict, what was logged, oldest first.
        evaluations: list of dict, of `evaluations.jsonl`.
        starts: list of dict, of `starts.jsonl`. Runs older than it have none.
    """

    name: str
    workdir: str
    recipe: object
    recipe_text: str
    metrics: list
    evaluations: list
    starts: list

    @property
    def best(self):
        """The evaluation whose weights were kept, or `None` where that is not known."""
        known = self.starts[-1] if self.starts else {}
        scored = [e for e in self.evaluations if e.get(known.get("metric")) is not None]
        if not scored:
            return None
        sign = 1 if known["higher_is_better"] else -1
        return max(scored, key=lambda e: sign * e[known["metric"]])  # the earliest of equals

    def facts(self):
        """What ran, as (name, str) pairs."""
        recipe, newest = self.recipe, self.starts[-1] if self.starts else {}
        step = self.metrics[-1]["step"] if self.metrics else 0
        fraction = "" if recipe.label_fraction == 1 else f", {recipe.label_fraction:.3g} of it"
        facts = {
            "task": f"{recipe.task}, {recipe.modality}",
            "started from": recipe.init,
            "data": f"{recipe.data.source}{fraction}",
            "tested on": newest.get("tested_on") or recipe.data.eval_source or "a part of the data",
            "updates": f"{step:,} of {newest['steps']:,}" if "steps" in newest else f"{step:,}",
            "batch": f"{recipe.batch_size:,}",
            "numbers": f"{recipe.precision}, {COMPILERS.get(recipe.xla, recipe.xla)}",
            "folder": self.workdir,
        }
        if self.best:
            metric = newest["metric"]
            facts["best"] = f"{metric} {self.best[metric]:.4g} after {self.best['step']:,} updates"
        if "examples" in newest:
            facts["examples"] = f"{newest['examples']:,}"
        return facts | facts_of_starts(self.starts)


def write_tuning_report(records, path):
    """Writes a page that shows how models trained on labels, and how well they did.

    Args:
        records: list of `TuningRecord`.
        path: str. One HTML file, which needs nothing else.

    Raises:
        OSError: where it cannot be written.
    """
    names = " and ".join(record.name for record in records)
    parts = [f"<h1>{escape(names)}</h1>", overview(records)]
    if any(record.evaluations for record in records):
        note = (
            "On what was held out; the weights of the best are kept. Confidence intervals, "
            "confusions and the worst examples: tools/evaluate.py --model=RUN --data=... --out=DIR."
        )
        parts.append(section("Scores", note, scores(records)))
    heard = [samples(record) for record in records]
    if any(heard):
        note = "The first recordings at the best evaluation; what differs is marked."
        parts.append(section("What was said and heard", note, side_by_side(records, heard)))
    if any(record.metrics for record in records):
        note = "The loss is that of training, with its dropout, masks and augmentation."
        parts.append(section("Over the updates", note, curves(records)))
    write_page(path, f"{names}: report of fine-tuning", parts)


def scores(records):
    """A panel a score, each run's best, and all evaluations, as HTML."""
    names = list(dict.fromkeys(n for r in records for e in r.evaluations for n in numbers_in(e)))
    columns = {n: [e.get(n) for r in records for e in r.evaluations] for n in names}
    # Of scores that are one and the same, as accuracy is a task's only metric and their mean.
    names = [n for i, n in enumerate(names) if columns[n] not in [columns[m] for m in names[:i]]]
    shown = panels(
        records, [((name,), name, "linear") for name in names], lambda r: r.evaluations, "o"
    )
    head = ["run", "update", *names, ""]

    def row(record, evaluation):
        numbers = (evaluation.get(name) for name in names)
        return [
            record.name,
            evaluation["step"],
            *("-" if number is None else float(number) for number in numbers),
            "best" if evaluation is record.best else "",
        ]

    best = [row(record, record.best) for record in records if record.best]
    rows = [row(record, evaluation) for record in records for evaluation in record.evaluations]
    every = f"<details><summary>all evaluations</summary>{table(head, rows)}</details>"
    return shown + (table(head, best) if best else "") + every


def numbers_in(evaluation):
    """The names of an evaluation's scores."""
    left_out = ("step", "seconds")
    numbers = (k for k, v in evaluation.items() if v is None or isinstance(v, int | float))
    return [name for name in numbers if name not in left_out]


def samples(record):
    """What a recognizer heard, as HTML; `None` where the run is of another task."""
    evaluation = record.best or (record.evaluations[-1] if record.evaluations else {})
    pairs = evaluation.get("samples")
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
