"""What ran: facts of one run or of several, and their recipes."""

import yaml

from d2v_tf.config import flatten
from d2v_tf.reporting.figures import escape
from d2v_tf.reporting.page import dot, table, wide


def overview(records):
    """What ran, as HTML: a table, what recipes differ in, and the recipes.

    Args:
        records: list of `RunRecord` or of `TuningRecord`.
    """
    facts = [record.facts() for record in records]
    names = list(dict.fromkeys(name for fact in facts for name in fact))
    head = ["", *(record.name for record in records)] if len(records) > 1 else []
    rows = [[name, *(fact.get(name, "") for fact in facts)] for name in names]
    parts = [wide(table(head, rows))]
    if len(records) > 1:
        flat = [flatten(yaml.safe_load(record.recipe_text)) for record in records]
        keys = list(dict.fromkeys(key for recipe in flat for key in recipe))
        differ = [k for k in keys if len({str(recipe.get(k, "-")) for recipe in flat}) > 1]
        rows = [[key, *(str(recipe.get(key, "-")) for recipe in flat)] for key in differ]
        parts += ["<h3>Recipes differ in</h3>", wide(table(["", *head[1:]], rows))]
    for i, record in enumerate(records):
        mark = f"{dot(i)}{escape(record.name)}: " if len(records) > 1 else ""
        parts.append(
            f"<details><summary>{mark}the whole recipe</summary>"
            f"<pre>{escape(record.recipe_text)}</pre></details>"
        )
    return "".join(parts)
