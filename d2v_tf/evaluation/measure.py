"""What a fine-tuned model is worth on a labelled set, how sure that is, and where it fails."""

import dataclasses

import numpy as np

from d2v_tf.data.reading import DataError
from d2v_tf.evaluation.examples import number_classes
from d2v_tf.evaluation.running import forward, input_maker, run_examples
from d2v_tf.finetuning.ctc import Data2VecSpeechCTC
from d2v_tf.finetuning.metrics import bootstrap_interval, confusion_matrix, evaluate
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
        worst: list of (name of the example, what is true, what the model says, loss or errors).
        confusion: optional int array `[C, C]`, a row a true class.
        class_names: optional tuple of str.
    """

    scores: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    num_examples: int
    notes: tuple[str, ...]
    worst: list[tuple[str, str, str, float]]
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
        metrics: optional tuple of names in `METRICS`; what the kind of task asks for by default.
        seed: int, of the bootstrap.
        **options: of `run_examples`.

    Returns:
        `Measurement`.

    Raises:
        DataError: where labels or transcripts are missing or do not fit the model.
    """
    make_inputs = input_maker(preprocessing, task.backbone)
    if isinstance(task, Data2VecSpeechCTC):
        return _measure_recognition(task, make_inputs, examples, num_worst, decode, seed, **options)
    labels = number_classes(examples, task.class_names)
    indices, logits = run_examples(examples, make_inputs, forward(task), **options)
    labelled = [place for place, index in enumerate(indices) if np.all(labels[index] >= 0)]
    if not labelled:
        raise DataError(f"data: no example of {examples.name} could be read and has a label.")
    indices, logits = indices[labelled], np.stack(logits)[labelled].astype("float32")
    labels = labels[indices]
    if task.num_classes == 1 and not getattr(task, "multi_label", False):
        if examples.class_names is not None:
            raise DataError(
                f"data: {examples.name} has classes, and the model gives a number. Name a table "
                "whose labels are numbers."
            )
        names, labels = ("pearson", "spearman"), labels.astype("float32")[:, None]
        losses = np.square(logits - labels)[:, 0]
        said = [f"{value:.3g}" for value in logits[:, 0]]
        true = [f"{value:.3g}" for value in labels[:, 0]]
    elif getattr(task, "multi_label", False):
        names, labels = ("mean_average_precision",), labels.astype("float32")
        losses = np.logaddexp(0, np.where(labels > 0, -logits, logits)).mean(axis=1)
        said = [_tags(row > 0, task.class_names) for row in logits]
        true = [_tags(row > 0, task.class_names) for row in labels]
    else:
        names = ("accuracy", "macro_f1")
        class_names = task.class_names or [str(i) for i in range(task.num_classes)]
        losses = np.logaddexp.reduce(logits, axis=1) - logits[np.arange(len(labels)), labels]
        said = [class_names[i] for i in logits.argmax(axis=1)]
        true = [class_names[i] for i in labels]
    names = metrics or names
    found = evaluate(names, logits, labels, task.class_names)
    is_classes = labels.ndim == 1
    return Measurement(
        scores=dict(found.scores),
        intervals={
            name: bootstrap_interval(name, logits, labels, draws=DRAWS, seed=seed) for name in names
        },
        num_examples=len(labels),
        notes=found.notes,
        worst=[
            (examples.names[indices[i]], true[i], said[i], float(losses[i]))
            for i in np.argsort(-losses)[:num_worst]
        ],
        confusion=confusion_matrix(logits, labels) if is_classes else None,
        class_names=task.class_names,
    )


def _tags(chosen, class_names):
    names = class_names or [str(i) for i in range(len(chosen))]
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
    )
