"""A run, or several side by side, on one page."""

import yaml

from d2v_tf.config import flatten
from d2v_tf.reporting import speech, text, vision
from d2v_tf.reporting.curves import curves
from d2v_tf.reporting.embedding import embedding
from d2v_tf.reporting.features import see
from d2v_tf.reporting.figures import escape
from d2v_tf.reporting.neighbors import neighbors
from d2v_tf.reporting.page import dot, section, side_by_side, table, warning, write_page
from d2v_tf.reporting.probes import probes

# What is shown of a modality's examples.
PICTURES = {"vision": vision, "speech": speech, "text": text}
NUM_MASKED = 8


def write_report(records, path):
    """Writes a page that shows what runs did and what they learned.

    Args:
        records: list of `RunRecord`.
        path: str. One HTML file, which needs nothing else.

    Raises:
        OSError: where it cannot be written.
    """
    names = " and ".join(record.name for record in records)
    parts = [f"<h1>{escape(names)}</h1>", overview(records)]
    parts += [warning(f"{r.name}: {line}") for r in records for line in r.missing]
    if any(record.metrics for record in records):
        note = "The loss is no measure of progress, since its target moves; the probes are."
        parts.append(section("Over the updates", note, curves(records)))
    if any(record.probes for record in records):
        note = (
            "Classifiers on frozen, mean-pooled features, beside the same ones on the untrained "
            "backbone and on a plain baseline."
        )
        parts.append(section("What the features are worth", note, probes(records)))
    parts += pictures(records)
    write_page(path, f"{names}: report of a run", parts)


def overview(records):
    """What ran: a table, and the recipes."""
    facts = [record.facts() for record in records]
    names = list(dict.fromkeys(name for fact in facts for name in fact))
    head = ["", *(record.name for record in records)] if len(records) > 1 else []
    rows = [[name, *(fact.get(name, "") for fact in facts)] for name in names]
    parts = [table(head, rows)]
    if len(records) > 1:
        flat = [flatten(yaml.safe_load(record.recipe_text)) for record in records]
        keys = list(dict.fromkeys(key for recipe in flat for key in recipe))
        differ = [k for k in keys if len({str(recipe.get(k, "-")) for recipe in flat}) > 1]
        rows = [[key, *(str(recipe.get(key, "-")) for recipe in flat)] for key in differ]
        parts += ["<h3>Recipes differ in</h3>", table(["", *head[1:]], rows)]
    for i, record in enumerate(records):
        mark = f"{dot(i)}{escape(record.name)}: " if len(records) > 1 else ""
        parts.append(
            f"<details><summary>{mark}the whole recipe</summary>"
            f"<pre>{escape(record.recipe_text)}</pre></details>"
        )
    return "".join(parts)


def pictures(records):
    """The sections that look at examples, of the runs whose data and weights are there."""
    sections = []
    readable = [record for record in records if record.data is not None]
    if readable:
        shown = [
            PICTURES[r.recipe.modality].masks(r.data.first_examples(NUM_MASKED), r.data)
            for r in readable
        ]
        note = "The run's first examples: what the student has to predict is hidden from it."
        sections.append(section("Masks", note, side_by_side(readable, shown)))
    looked = [record for record in readable if record.backbone is not None]
    if not looked:
        return sections
    kinds = [PICTURES[record.recipe.modality] for record in looked]
    seen = [see(r.backbone, r.data, k.NUM_EXAMPLES) for k, r in zip(kinds, looked, strict=True)]

    def add(title, note, content):
        sections.append(section(title, note, side_by_side(looked, content)))

    add(
        "What the features see",
        "Like colors are like features: the first three principal components of all positions' "
        "last hidden states as red, green and blue. Attention is the last block's, the mean of its "
        "heads.",
        [k.features(s, r.backbone, r.data) for k, s, r in zip(kinds, seen, looked, strict=True)],
    )
    add(
        "Nearest neighbors",
        "By the cosine of mean-pooled features less their mean; on the left the example, then "
        "the nearest of the others, ✗ where the label is another.",
        [
            neighbors(s, lambda example, k=k, r=r: k.thumbnail(example, r.data))
            for k, s, r in zip(kinds, seen, looked, strict=True)
        ],
    )
    add(
        "All of them in a plane",
        "Mean-pooled features; of more classes than there are colors, the most frequent are "
        "colored. Labels were not trained on.",
        [embedding(s) for s in seen],
    )
    return sections
