"""What the parts of one pre-training run have in common."""

import dataclasses
import os
import shutil
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.markup import escape

from d2v_tf.data.reading import first_line
from d2v_tf.pretraining.data2vec import Data2Vec
from d2v_tf.schema.common import Recipe
from d2v_tf.training.checkpoints import Checkpoints
from d2v_tf.training.evidence import Evidence
from d2v_tf.training.modalities import modality_of
from d2v_tf.training.model import build_model
from d2v_tf.training.strategy import Replicas
from d2v_tf.training.time_left import TimeLeft


@dataclasses.dataclass(frozen=True)
class Run:
    """A pre-training run that has been opened; `open_run` makes one.

    Attributes:
        recipe: `Recipe`, resolved.
        workdir: str.
        replicas: `Replicas`.
        data: the run's data, an object as `training/vision.py` has it.
        model: `Data2Vec`, compiled.
        checkpoints: `Checkpoints` of the model.
        evidence: `Evidence`, with the run's time left.
        console: `rich` console for what everybody is to read. A worker's own says nothing.
        talk: `rich` console for the rest, silent in a quiet run.
        warn: function of a line, which any worker may have to say.
        quiet: bool.
    """

    recipe: Recipe
    workdir: str
    replicas: Replicas
    data: Any
    model: Data2Vec
    checkpoints: Checkpoints
    evidence: Evidence
    console: Console
    talk: Console
    warn: Callable
    quiet: bool

    @property
    def backbone(self):
        return self.model.student

    def save_backbone(self, name):
        """Writes the backbone and its preprocessing to a folder of the run, in place of what is
        there, once whole.

        Returns:
            str. The folder.

        Raises:
            OSError: where it cannot be written; what was there is as it was.
        """
        folder = os.path.join(self.workdir, name)
        new, old = f"{folder}.new", f"{folder}.old"
        for path in (new, old):
            shutil.rmtree(path, ignore_errors=True)
        try:
            self.backbone.save_to_preset(new)
            self.data.save_preprocessing(new)
        except (OSError, RuntimeError) as error:  # the second is HDF5's, while it closes a file
            shutil.rmtree(new, ignore_errors=True)
            reason = getattr(error, "strerror", None) or first_line(error)
            raise OSError(getattr(error, "errno", None), reason) from error
        if os.path.exists(folder):
            os.rename(folder, old)
        os.rename(new, folder)
        shutil.rmtree(old, ignore_errors=True)
        return folder


def open_run(recipe, workdir, console, replicas, quiet=False):
    """Opens the data of a run and builds its model.

    Args:
        recipe: a resolved `Recipe`.
        workdir: str, opened.
        console: `rich` console of this process.
        replicas: `Replicas`.
        quiet: bool.

    Raises:
        DataError, StrategyError: where the data cannot be opened, or not be shared out.
    """

    def warn(line):
        of = f" of worker {replicas.worker}" if replicas.num_workers > 1 else ""
        console.print(f"[yellow]warning{of}:[/] {escape(line)}")

    of_chief = console if replicas.is_chief else Console(quiet=True)
    talk = Console(quiet=True) if quiet else of_chief
    data = modality_of(recipe).open_data(recipe, warn=warn)
    data.check_parts(replicas.count)
    data.check_services(replicas.services, replicas.num_workers)
    model = build_model(recipe, replicas.strategy)
    rare = {"probe": recipe.probe_every, "checkpoint": recipe.checkpoint_every}
    time_left = TimeLeft(recipe.steps, {**rare, "pictures": recipe.checkpoint_every})
    tasks = data.probe_tasks() if replicas.is_chief else []
    return Run(
        recipe=recipe,
        workdir=workdir,
        replicas=replicas,
        data=data,
        model=model,
        checkpoints=Checkpoints(
            os.path.join(workdir, "checkpoints"), model, recipe.keep_checkpoints, recipe.keep_every
        ),
        evidence=Evidence(workdir, of_chief, tasks, time_left, talk),
        console=of_chief,
        talk=talk,
        warn=warn,
        quiet=quiet,
    )
