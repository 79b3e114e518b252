"""What a fine-tuned model says about new files."""

import numpy as np

from d2v_tf.evaluation.labels import is_multi_label
from d2v_tf.evaluation.running import forward, input_maker, run_examples
from d2v_tf.finetuning.ctc import Data2VecSpeechCTC
from d2v_tf.finetuning.recognition import recognizer


def predict_examples(task, preprocessing, examples, decode=None, **options):
    """Predicts examples one by one.

    Args:
        task: a classifier or `Data2VecSpeechCTC`.
        preprocessing: what `d2v_tf.load_preprocessing` gives.
        examples: `Examples`; labels are not needed.
        decode: optional decoder of a CTC model; greedy by default.
        **options: of `run_examples`.

    Returns:
        list of (name of the example, dict): `"text"`; or `"label"` and `"probability"`; or
        `"tags"`, a dict of those above one half with their probabilities; or `"value"`.
    """
    make_inputs = input_maker(preprocessing, task)
    if isinstance(task, Data2VecSpeechCTC):
        recognize = recognizer(task, decode)
        indices, texts = run_examples(examples, make_inputs, recognize, **options)
        said = [{"text": text} for text in texts]
    else:
        indices, logits = run_examples(examples, make_inputs, forward(task), **options)
        said = [describe(task, row) for row in logits]
    return [(examples.names[index], one) for index, one in zip(indices, said, strict=True)]


def describe(task, logits):
    """What the logits `[C]` of a classifier say, as `predict_examples` gives it."""
    names = task.class_names or [str(i) for i in range(task.num_classes)]
    logits = np.asarray(logits, "float64")
    if is_multi_label(task):
        probabilities = 1 / (1 + np.exp(-logits))
        tags = {n: float(p) for n, p in zip(names, probabilities, strict=True) if p > 0.5}
        return {"tags": tags}
    if task.num_classes == 1:
        return {"value": float(logits[0])}
    probabilities = np.exp(logits - np.logaddexp.reduce(logits))
    best = int(np.argmax(probabilities))
    return {"label": names[best], "probability": float(probabilities[best])}
