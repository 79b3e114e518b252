"""What a report is made of: one run's recipe, logs, data and backbone."""

import contextlib
import dataclasses

import tensorflow as tf

from d2v_tf.data.reading import first_line
from d2v_tf.errors import UserError
from d2v_tf.reporting.overview import facts_of_starts
from d2v_tf.schema.common import COMPILERS


@dataclasses.dataclass
class RunRecord:
    """A run, finished or not.

    Attributes:
        name: str. What it is called on the page.
        workdir: str.
        recipe: its resolved `Recipe`.
        recipe_text: str. The same as YAML.
        metrics: list of dict, what was logged, oldest first.
        probes: list of dict, of `probes.jsonl`.
        starts: list of dict, of `starts.jsonl`: when, where and with what it was started.
        data: what the run reads, as `training/vision.py` opens it, or `None`.
        backbone: `Data2VecBackbone`, or `None`.
        step: int. Updates that these weights have behind them.
        missing: list of str. What the report is without, and why.
    """

    name: str
    workdir: str
    recipe: object
    recipe_text: str
    metrics: list
    probes: list
    starts: list
    data: object = None
    backbone: object = None
    step: int = 0
    missing: list = dataclasses.field(default_factory=list)

    @contextlib.contextmanager
    def trying(self, what):
        """Notes what cannot be made, and why, and goes on behind the block.

        Whatever it is, files that are gone or a drawing that fails: the rest is worth a page.

        Args:
            what: str, as in "no masks, for they could not be made".
        """
        try:
            yield
        except Exception as error:
            if self.data is not None and isinstance(error, tf.errors.OpError):
                error = self.data.explain(error)
            reason = str(error)
            if not isinstance(error, UserError):
                reason = f"{type(error).__name__}: {first_line(error)}"
            self.missing.append(f"no {what} ({reason})")

    def facts(self):
        """What ran: dict of str."""
        recipe, model = self.recipe, self.recipe.model
        last = self.metrics[-1] if self.metrics else {}
        facts = {
            "modality": recipe.modality,
            "model": f"{model.num_layers} blocks of width {model.hidden_dim}",
            "data": recipe.data.source,
            "updates": f"{last.get('step', 0):,} of {recipe.steps:,}",
            "batch": f"{recipe.batch_size:,}"
            + (f" in {recipe.accumulate} parts" if recipe.accumulate > 1 else ""),
            "numbers": f"{recipe.precision}, {COMPILERS.get(recipe.xla, recipe.xla)}",
            "started from": recipe.init or "random weights",
            "folder": self.workdir,
        }
        if self.backbone is not None:
            of = "the last of " if self.step == recipe.steps else f"{self.step:,} of "
            facts["weights shown"] = f"after {of}{recipe.steps:,} updates"
            facts["parameters"] = f"{self.backbone.count_params():,}"
        if self.data is not None:
            facts["examples"] = f"{self.data.num_examples:,}"
        if "bad_examples" in last:
            facts["unreadable examples"] = f"{last['bad_examples']:,.0f}"
        return facts | facts_of_starts(self.starts)
