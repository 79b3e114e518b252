"""Fine-tuning as the command line asks for it: one run, or one a seed."""

import json
import os
import statistics

from rich.markup import escape

from d2v_tf.config import load_finetune_recipe
from d2v_tf.errors import UserError
from d2v_tf.interop.loading import backbone_class_in
from d2v_tf.schema import RECIPES
from d2v_tf.training.finetune import finetune
from d2v_tf.training.modalities import backbone_class_of
from d2v_tf.training.report import tuning_report_at_end

# What a task is about where a backbone from scratch does not say.
MODALITY_OF_TASK = {"ctc": "speech", "tag": "speech", "glue": "text"}


def modality_of_start(init, task):
    """Which modality a run is of, by its task or by the backbone that it starts from.

    Args:
        init: str. A path that `load_backbone` reads, or `"scratch"`.
        task: str. The kind of the task.

    Raises:
        UserError: where neither says.
    """
    if task in MODALITY_OF_TASK:
        return MODALITY_OF_TASK[task]
    if init == "scratch":
        raise UserError(
            f"--task={task} from scratch may be of images, speech or text: give --modality, or a "
            "--config that says it."
        )
    kind = backbone_class_in(init)
    return next(m for m in RECIPES if issubclass(kind, backbone_class_of(m)))


def finetune_seeds(
    config, overrides, modality, workdir, seeds, console, quiet=False, replicas=None
):
    """Runs a recipe, once or with several seeds.

    Args:
        config: str. The recipe's file.
        overrides: list of str, as `--set` takes them.
        modality: str.
        workdir: str. With several seeds each run has a folder `seed_N` in it, and `seeds.json` the
            scores, and one report.
        seeds: optional list of str.
        console: `rich` console.
        quiet: bool. Whether only warnings and what comes at the end are printed.
        replicas: as for `finetune`.

    Returns:
        list of the best record of each run.
    """
    if not seeds:
        recipe = load_finetune_recipe(config, overrides, modality)
        return [finetune(recipe, workdir, console, quiet, replicas)[1]]
    try:
        numbers = [int(seed) for seed in seeds]
    except ValueError:
        raise UserError(f"--seeds={','.join(seeds)}: integers are needed, as in 0,1,2.") from None
    records = []
    for seed in numbers:
        recipe = load_finetune_recipe(config, [*overrides, f"seed={seed}"], modality)
        if not quiet:
            console.print(f"seed {seed}")
        folder = os.path.join(workdir, f"seed_{seed}")
        records.append(finetune(recipe, folder, console, quiet, replicas)[1])
    names = [k for k, v in records[0].items() if isinstance(v, (int, float)) and k != "step"]
    for name in names:
        values = [record[name] for record in records]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        console.print(
            f"{name}: mean {statistics.mean(values):.4f}, deviation {spread:.4f}, "
            f"of {len(values)} seeds"
        )
    with open(os.path.join(workdir, "seeds.json"), "w", encoding="utf-8") as file:
        json.dump(dict(zip(map(str, numbers), records, strict=True)), file, indent=2)
    tuning_report_at_end(
        workdir,
        console,
        lambda line: console.print(f"[yellow]warning:[/] {escape(line)}"),
        [os.path.join(workdir, f"seed_{seed}") for seed in numbers],
    )
    return records
