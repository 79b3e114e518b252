"""What a recipe may hold: its keys, their types and ranges, and what must fit together."""

from d2v_tf.schema.speech import SpeechRecipe
from d2v_tf.schema.text import TextRecipe
from d2v_tf.schema.vision import VisionRecipe

RECIPES = {"vision": VisionRecipe, "speech": SpeechRecipe, "text": TextRecipe}
# Keys that may be given as a part of `steps`, such as "10%".
DURATIONS = (
    ("data2vec", "ema", 2),
    ("schedule", "warmup_steps"),
    ("schedule", "hold_steps"),
    ("schedule", "decay_steps"),
    ("guard", "after_steps"),
    ("probe_every",),
    ("checkpoint_every",),
)
# What the paper uses, named when a value is out of range.
PAPER = {
    "mask.ratio": "The paper uses 0.6.",
    "data2vec.loss_beta": "The paper uses 2 for vision, 0 for speech, 4 for text.",
}
