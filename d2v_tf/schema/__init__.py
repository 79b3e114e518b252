"""What a recipe may hold: its keys, their types and ranges, and what must fit together."""

from d2v_tf.schema.finetune import (
    FinetuneSpeechRecipe,
    FinetuneTextRecipe,
    FinetuneVisionRecipe,
)
from d2v_tf.schema.speech import SpeechRecipe
from d2v_tf.schema.text import TextRecipe
from d2v_tf.schema.vision import VisionRecipe

RECIPES = {"vision": VisionRecipe, "speech": SpeechRecipe, "text": TextRecipe}
FINETUNE_RECIPES = {
    "vision": FinetuneVisionRecipe,
    "speech": FinetuneSpeechRecipe,
    "text": FinetuneTextRecipe,
}
# Keys that may be given as a part of `steps`, such as "10%".
DURATIONS = (
    ("data2vec", "ema", 2),
    ("schedule", "warmup_steps"),
    ("schedule", "hold_steps"),
    ("schedule", "decay_steps"),
    ("guard", "after_steps"),
    ("probe_every",),
    ("checkpoint_every",),
    ("keep_every",),
)
# What the paper uses, named when a value is out of range.
PAPER = {
    ("vision", "mask.ratio"): "The paper uses 0.6.",
    ("vision", "data2vec.loss_beta"): "The paper uses 2.",
    ("speech", "mask.start_ratio"): "The paper uses 0.065.",
    ("speech", "data2vec.loss_beta"): "The paper uses 0.",
    ("text", "mask.ratio"): "The paper uses 0.15, or 0.35 in spans.",
    ("text", "data2vec.loss_beta"): "The paper uses 4.",
}
