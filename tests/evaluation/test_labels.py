"""Labels and models of every kind: measured where they fit, refused by name where they do not."""

import numpy as np
import pytest
import soundfile
from sklearn.metrics import average_precision_score

import d2v_tf
from d2v_tf.data.reading import DataError
from d2v_tf.evaluation.examples import Examples, open_examples
from d2v_tf.evaluation.features import probe_backbone
from d2v_tf.evaluation.labels import number_labels
from d2v_tf.evaluation.measure import measure
from tests.interop.tiny import make_backbone

CONVERTER = d2v_tf.Data2VecAudioConverter()
TAGS = ("hum", "hiss", "hiss,hum", "", "hum", "hiss")
CLASSES = ("x", "y", "x", "", "y", "y")


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Six recordings and tables of their tags, of their classes, and of both."""
    root = tmp_path_factory.mktemp("sounds")
    rng = np.random.default_rng(0)
    rows = {"tags": ["path\ttags"], "classes": ["path\tclass"], "both": ["path\tclass\ttags"]}
    for i, (name, tags) in enumerate(zip(CLASSES, TAGS, strict=True)):
        soundfile.write(root / f"{i}.wav", 0.1 * rng.standard_normal(800 + 90 * i), 16_000)
        rows["tags"].append(f"{i}.wav\t{tags}")
        rows["classes"].append(f"{i}.wav\t{name}")
        rows["both"].append(f"{i}.wav\t{name}\t{tags}")
    for name, lines in rows.items():
        (root / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    return root


def audio_model(names, multi_label):
    return d2v_tf.Data2VecAudioClassifier(
        make_backbone("speech_invariant"), len(names), class_names=names, multi_label=multi_label
    )


def logits_of(model, sounds, chosen):
    waves = [soundfile.read(sounds / f"{i}.wav", dtype="float32")[0] for i in chosen]
    return np.concatenate([np.asarray(model(CONVERTER([wave]))) for wave in waves])


@pytest.mark.parametrize("table", ["tags", "both"])
def test_a_tagger_by_tags(sounds, table):
    tagger = audio_model(("hum", "hiss"), True)  # not in the table's order
    examples = open_examples(tagger.backbone, f"table:{sounds}/{table}.tsv", multi_label=True)
    found = measure(tagger, CONVERTER, examples)
    labels = np.array([[name in tags.split(",") for name in tagger.class_names] for tags in TAGS])
    logits = logits_of(tagger, sounds, range(6))
    expected = average_precision_score(labels, logits, average="macro")
    assert found.scores == {"mean_average_precision": pytest.approx(expected)}
    assert found.num_examples == 6 and "-" in [true for _, true, _, _ in found.worst]


def test_a_tagger_by_classes(sounds):
    tagger = audio_model(("y", "z", "x"), True)
    examples = open_examples(tagger.backbone, f"table:{sounds}/classes.tsv", multi_label=True)
    found = measure(tagger, CONVERTER, examples)
    chosen = [i for i, name in enumerate(CLASSES) if name]
    labels = np.array([[CLASSES[i] == name for name in ("y", "x")] for i in chosen])
    logits = logits_of(tagger, sounds, chosen)[:, [0, 2]]  # nothing is of class z
    expected = average_precision_score(labels, logits, average="macro")
    assert found.scores == {"mean_average_precision": pytest.approx(expected)}
    assert found.num_examples == 5 and "no example has: z" in found.notes[0]


def test_a_classifier_takes_the_classes_and_no_tags(sounds):
    classifier = audio_model(("x", "y"), False)
    for table in ("classes", "both"):
        examples = open_examples(classifier.backbone, f"table:{sounds}/{table}.tsv")
        found = measure(classifier, CONVERTER, examples)
        chosen = [i for i, name in enumerate(CLASSES) if name]
        said = logits_of(classifier, sounds, chosen).argmax(axis=1)
        right = np.mean([classifier.class_names[k] for k in said] == np.array(CLASSES)[chosen])
        assert found.scores["accuracy"] == right and found.num_examples == 5
    for spec, label in (("tags", None), ("both", "tags")):
        examples = open_examples(classifier.backbone, f"table:{sounds}/{spec}.tsv", label=label)
        with pytest.raises(DataError, match="has tags, any number of them an example, and the mod"):
            measure(classifier, CONVERTER, examples)
        with pytest.raises(DataError, match="has no classes to probe with"):
            probe_backbone(classifier.backbone, CONVERTER, examples, examples)


class Task:
    """What `number_labels` looks at."""

    def __init__(self, num_classes, class_names=None, multi_label=False):
        self.num_classes, self.class_names = num_classes, class_names
        self.multi_label = multi_label


def test_labels_of_another_kind():
    scores = Examples("t.tsv", [], None, np.ones(2), np.float32([0.5, 2]))
    for task, kind in ((Task(3), "a class"), (Task(3, multi_label=True), "tags")):
        with pytest.raises(DataError, match=f"t.tsv has numbers, and the model gives {kind}"):
            number_labels(scores, task)
    classes = Examples("t.tsv", [], None, np.ones(3), np.array([0, 2, 1]), ("a", "b", "c"))
    with pytest.raises(DataError, match="t.tsv has classes, and the model gives a number"):
        number_labels(classes, Task(1))
    with pytest.raises(DataError, match="t.tsv has 3 classes, and the model 2"):
        number_labels(classes, Task(2))
    labels, known = number_labels(classes, Task(4))  # of a model without names
    assert labels.tolist() == [0, 2, 1] and known.all()
