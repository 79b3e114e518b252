"""A run, or several side by side, on one page."""

from d2v_tf.reporting import speech, text, vision
from d2v_tf.reporting.curves import curves
from d2v_tf.reporting.embedding import embedding
from d2v_tf.reporting.features import see
from d2v_tf.reporting.figures import escape
from d2v_tf.reporting.neighbors import neighbors
from d2v_tf.reporting.overview import overview
from d2v_tf.reporting.page import section, side_by_side, warning, write_page
from d2v_tf.reporting.probes import probes

# What is shown of a modality's examples.
PICTURES = {"vision": vision, "speech": speech, "text": text}
NUM_MASKED = 8
# The sections that look at examples, and how to read them.
MASKS, FEATURES, NEIGHBORS, PLANE = (
    "Masks",
    "What the features see",
    "Nearest neighbors",
    "All of them in a plane",
)
NOTES = {
    MASKS: "The run's first examples: what the student has to predict is hidden from it.",
    FEATURES: "Like colors are like features: the first three principal components of all "
    "positions' last hidden states as red, green and blue. Attention is the last block's, the mean "
    "of its heads.",
    NEIGHBORS: "By the cosine of mean-pooled features less their mean; on the left the example, "
    "then the nearest of the others, ✗ where the label is another.",
    PLANE: "Mean-pooled features; of more classes than there are colors, the most frequent are "
    "colored. Labels were not trained on.",
}


def write_report(records, path):
    """Writes a page that shows what runs did and what they learned.

    Pictures that cannot be made are left out; the page says which, and so does `missing` of a
    record after that.

    Args:
        records: list of `RunRecord`.
        path: str. One HTML file, which needs nothing else.

    Raises:
        OSError: where it cannot be written.
    """
    names = " and ".join(record.name for record in records)
    looked_at = pictures(records)  # before what is missing is said
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
    parts += looked_at
    # Of one run a later start can tell whether the page is of its end.
    step = records[0].step if len(records) == 1 else None
    write_page(path, f"{names}: report of a run", parts, step)


def pictures(records):
    """The sections that look at examples, with those runs of which there are pictures."""
    made = [pictures_of(record) for record in records]
    return [
        section(title, note, side_by_side(records, [of_run.get(title) for of_run in made]))
        for title, note in NOTES.items()
        if any(title in of_run for of_run in made)
    ]


def pictures_of(record):
    """What a run's examples look like, as far as its data and its weights are there.

    Returns:
        dict, title of a section -> HTML. What cannot be made is left out, and in `record.missing`.
    """
    made, data, backbone = {}, record.data, record.backbone
    if data is None:
        return made
    kind = PICTURES[record.recipe.modality]

    def make(title, function):
        with record.trying(f"section {title!r}, for it could not be made"):
            made[title] = function()

    make(MASKS, lambda: kind.masks(data.first_examples(NUM_MASKED), data))
    if backbone is None:
        return made
    seen = None
    with record.trying("pictures of features, for examples could not be looked at"):
        seen = see(backbone, data, kind.NUM_EXAMPLES)
    if seen is not None:
        make(FEATURES, lambda: kind.features(seen, backbone, data))
        make(NEIGHBORS, lambda: neighbors(seen, lambda example: kind.thumbnail(example, data)))
        make(PLANE, lambda: embedding(seen))
    return made
