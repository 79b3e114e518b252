"""What a run says before it starts."""

from rich.markup import escape
from rich.table import Table

from d2v_tf.schema.common import COMPILERS
from d2v_tf.training.precision import resolve_precision, resolve_xla


def where_it_starts(start, steps, is_over=False):
    """A line for a run that made updates before.

    Args:
        start, steps: ints. Updates made, and of the whole run.
        is_over: bool. Whether it was ended before its last update.
    """
    if start < steps and not is_over:
        return f"resuming after step {start}"
    return f"the run ended after step {start:,}: there is nothing left to train"


def print_summary(run, published_batch_size=None):
    """Prints what is about to run: model, data, effective batch, length.

    Args:
        run: `Run`. The chief warns where the recipe's published batch size is not kept.
        published_batch_size: optional int.
    """
    recipe, data, replicas, backbone = run.recipe, run.data, run.replicas, run.backbone
    shape = recipe.model
    precision = resolve_precision(recipe.precision)
    compiler = COMPILERS[resolve_xla(recipe.xla)]
    epochs = recipe.steps / data.batches_per_epoch
    rows = {
        "model": (
            f"{type(backbone).__name__}, {shape.num_layers} blocks of width {shape.hidden_dim}, "
            f"{backbone.count_params():,} parameters"
        ),
        "data": f"{data.name}, {data.num_examples:,} examples"
        + (f", read by {data.reader}" if data.reader else ""),
        "batch": data.describe_batch()
        + (f", in {recipe.accumulate} parts" if recipe.accumulate > 1 else ""),
        "length": f"{recipe.steps:,} updates, {epochs:,.1f} epochs",
        "numbers": f"{precision}, {compiler}",
    }
    if replicas.count > 1:
        rows["devices"] = replicas.describe()
    table = Table.grid(padding=(0, 2))
    for name, value in rows.items():
        table.add_row(name, escape(value))
    run.talk.print(table)
    if replicas.is_chief and published_batch_size not in (None, recipe.batch_size):
        parts = -(-published_batch_size // recipe.batch_size)
        keep = ""
        if parts > 1 and published_batch_size % parts == 0:
            keep = (
                f" Keep it by --set batch_size={published_batch_size} --set accumulate={parts}, or "
            )
        run.warn(
            f"the recipe is for batches of {published_batch_size}, not "
            f"{recipe.batch_size}. Results depend on it."
            + (keep or " ")
            + ("tune" if keep else "Tune")
            + " the learning rate and EMA anew."
        )
