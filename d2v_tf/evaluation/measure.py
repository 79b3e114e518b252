"""What a fine-tuned model is worth on a labelled set, how sure that is, and where it fails."""

import dataclasses

import numpy as np

from d2v_tf.data.reading import DataError
from d2v_tf.evaluation.labels import is_multi_label, is_regression, number_labels
from d2v_tf.evaluation.running import forward, input_maker, run_examples
from d2v_tf.finetuning.ctc import Data2VecSpeechCTC
from d2v_tf.finetuning.metrics import METRICS, bootstrap_interval, confusion_matrix, evaluate
from d2v_tf.finetuning.recognition import count_errors, recognizer

DRAWS = 1000


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What a model achieves on a set.

    Attributes:
        scores: dict, name -> float.
        intervals: dict, name -> (float, float), 95% bootstrap intervals.
        num_examples: int. Examples that could be read and have a label.
        notes: tuple of str.
        worst: list of (name of the example, what is true, what the model says, `worst_by`).
        worst_by: str. What makes an example one of the worst: `"loss"`, or `"word_errors"`.
        confusion: optional int array `[C, C]`, a row a true class.
        class_names: optional tuple of str.
    """

    scores: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    num_examples: int
    notes: tuple[str, ...]
    worst: list[tuple[str, str, str, float]]
    worst_by: str = "loss"
    confusion: np.ndarray | None = None
    class_names: tuple[str, ...] | None = None


def measure(
    task, preprocessing, examples, num_worst=10, decode=None, metrics=None, seed=0, **options
):
    """Measures a task on labelled or transcribed examples.

    Args:
        task: a classifier or `Data2VecSpeechCTC`.
        preprocessing: what `d2v_tf.load_preprocessing` gives.
        examples: `Examples`.
        num_worst: int. How many of the worst examples are named.
        decode: optional decoder of a CTC model; greedy by default.
        metrics: optional tuple of names in `METRICS`, a GLUE task's; of several, their mean is
            given too, as `score`. What the kind of task asks for by default.
        seed: int, of the bootstrap.
        **options: of `run_examples`.

    Returns:
        `Measurement`.

    Raises:
        DataError: where labels or transcripts are missing or do not fit the model.
    """
    make_inputs = input_maker(preprocessing, task)
    if isinstance(task, Data2VecSpeechCTC):
        return _measure_recognition(task, make_inputs, examples, num_worst, decode, seed, **options)
    labels, known = number_labels(examples, task)
    indices, logits = run_examples(examples, make_inputs, forward(task), **options)
    places = np.flatnonzero(known[indices])
    if not len(places):
        raise DataError(f"data: no example of {examples.name} could be read and has a label.")
    indices = indices[places]
    logits = np.stack([logits[place] for place in places]).astype("float32")
    compared = _compare(task, logits, labels[indices])
    labels, names = compared.labels, metrics or compared.metrics
    found = evaluate(names, logits, labels, task.class_names)
    scores, measures = dict(found.scores), {name: name for name in names}
    if metrics and len(metrics) > 1:
        # GLUE's number of a task with several metrics.
        scores["score"], measures["score"] = found.score, _mean_of(metrics)
    return Measurement(
        scores=scores,
        intervals={
            name: bootstrap_interval(measure, logits, labels, draws=DRAWS, seed=seed)
            for name, measure in measures.items()
        },
        num_examples=len(labels),
        notes=found.notes,
        worst=[
            (
                examples.names[indices[i]],
                compared.true[i],
                compared.said[i],
                float(compared.losses[i]),
            )
            for i in np.argsort(-compared.losses)[:num_worst]
        ],
        confusion=confusion_matrix(logits, labels) if labels.ndim == 1 else None,
        class_names=task.class_names,
    )


@dataclasses.dataclass(frozen=True)
class _Compared:
    """Labels as the metrics take them, the usual metrics, and each example's loss and two words."""

    labels: np.ndarray
    metrics: tuple[str, ...]
    losses: np.ndarray
    true: list[str]
    said: list[str]


def _compare(task, logits, labels):
    """What the logits `[N, C]` of a classifier, tagger or regression say, beside what is true."""
    names = task.class_names or [str(i) for i in range(task.num_classes)]
    if is_regression(task):
        labels = labels[:, None]
        true, said = ([f"{value:.3g}" for value in values[:, 0]] for values in (labels, logits))
        losses = np.square(logits - labels)[:, 0]
        return _Compared(labels, ("pearson", "spearman"), losses, true, said)
    if is_multi_label(task):
        losses = np.logaddexp(0, np.where(labels, -logits, logits)).mean(axis=1)
        true, said = ([_tags(row, names) for row in chosen] for chosen in (labels, logits > 0))
        metrics = ("mean_average_precision",)
        return _Compared(labels.astype("float32"), metrics, losses, true, said)
    losses = np.logaddexp.reduce(logits, axis=1) - logits[np.arange(len(labels)), labels]
    true, said = ([names[i] for i in chosen] for chosen in (labels, logits.argmax(axis=1)))
    return _Compared(labels, ("accuracy", "macro_f1"), losses, true, said)


def _mean_of(metrics):
    """The mean of metrics, as a function of scores and labels."""
    return lambda scores, labels: np.mean([METRICS[name](scores, labels) for name in metrics])


def _tags(chosen, names):
    return ", ".join(name for name, is_there in zip(names, chosen, strict=True) if is_there) or "-"


def _measure_recognition(task, make_inputs, examples, num_worst, decode, seed, **options):
    if examples.transcripts is None:
        raise DataError(f"data: {examples.name} has no transcripts to measure recognition with.")
    recognize = recognizer(task, decode)
    indices, heard = run_examples(examples, make_inputs, recognize, **options)
    if not len(indices):
        raise DataError(f"data: no recording of {examples.name} could be read.")
    samples = [(examples.transcripts[i], text) for i, text in zip(indices, heard, strict=True)]
    whole = count_errors(samples)
    single = [count_errors([sample]) for sample in samples]
    rng = np.random.default_rng(seed)
    chosen = rng.integers(0, len(single), (DRAWS, len(single)))
    intervals = {}
    for name, errors, units in (
        ("wer", "word_errors", "words"),
        ("cer", "character_errors", "characters"),
    ):
        wrong, all_of_them = (
            np.array([getattr(report, attribute) for report in single])[chosen].sum(axis=1)
            for attribute in (errors, units)
        )
        rates = wrong / np.maximum(all_of_them, 1)
        intervals[name] = tuple(np.quantile(rates, [0.025, 0.975]).tolist())
    notes = []
    letters = {letter for reference, _ in samples for letter in reference}
    strange = sorted(letters - {" ", *task.vocabulary})
    if strange:
        notes.append(
            f"the transcripts have letters that the model does not know: {' '.join(strange)}"
        )
    if whole.empty_references:
        notes.append(f"{whole.empty_references} recordings have an empty transcript")
    if whole.empty_hypotheses:
        notes.append(f"nothing was heard in {whole.empty_hypotheses} recordings")
    worst = sorted(range(len(single)), key=lambda i: -single[i].word_errors)[:num_worst]
    return Measurement(
        scores={"wer": whole.wer, "cer": whole.cer},
        intervals=intervals,
        num_examples=len(samples),
        notes=tuple(notes),
        worst=[
            (examples.names[indices[i]], *samples[i], float(single[i].word_errors))
            for i in worst
            if single[i].word_errors
        ],
        worst_by="word_errors",
    )
