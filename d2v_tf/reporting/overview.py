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


def facts_of_starts(starts):
    """When, where and with what a run was started: dict of str.

    Args:
        starts: list of dict, of `starts.jsonl`. Runs older than that file have none, or none of
            their first start.
    """
    if not starts:
        return {}
    newest, facts = starts[-1], {}
    if starts[0]["step"] == 0:
        facts["first started"] = starts[0]["time"]
    continued = sum(start["step"] > 0 for start in starts)
    if continued:
        facts["continued"] = f"{continued} times, last {newest['time']}"
    return facts | {n: newest[n] for n in ("machine", "devices", "versions") if n in newest}
