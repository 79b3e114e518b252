"""`tools/evaluate.py` as a user runs it, on models that nobody trained."""

import json

import numpy as np
import pytest
import soundfile

import d2v_tf
from d2v_tf.data.tokenization import train_tokenizer
from d2v_tf.finetuning.ngram import estimate_ngrams, write_arpa
from d2v_tf.finetuning.preprocessors import Data2VecAudioClassifierPreprocessor
from d2v_tf.finetuning.text_preprocessor import Data2VecTextClassifierPreprocessor
from tests.data.images import write_tree
from tests.forked_tools import run_tool
from tests.interop.tiny import make_backbone

LETTERS = ("<pad>", "|", "a", "b")


def evaluate(*arguments):
    """What the tool prints; as JSON lines where it is asked for them."""
    done = run_tool("evaluate.py", *arguments)
    assert done.returncode == 0, done.stderr
    if "--json" in arguments:
        return [json.loads(line) for line in done.stdout.splitlines()]
    return done.stdout


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Recordings with transcripts and a table of tags; a CTC model and a tagger's run."""
    root = tmp_path_factory.mktemp("sounds")
    rng = np.random.default_rng(0)
    rows, table = ["."], ["path\ttags"]
    for i in range(4):
        soundfile.write(root / f"{i}.wav", 0.1 * rng.standard_normal(900 + 100 * i), 16_000)
        rows.append(f"{i}.wav\t{900 + 100 * i}")
        table.append(f"{i}.wav\t{('hum', 'hiss')[i % 2]}")
    (root / "list.tsv").write_text("\n".join(rows) + "\n")
    (root / "list.wrd").write_text("ab\nb a\nba\na\n")
    (root / "tags.tsv").write_text("\n".join(table) + "\n")
    (root / "words.txt").write_text("ab ba\n")
    sentences = [["ab", "ba"]] * 20 + [["aa"], ["bb", "bb"], ["ba", "ab", "ba"]] * 2
    write_arpa(estimate_ngrams(sentences, 2), str(root / "words.arpa"))
    backbone = make_backbone("speech_invariant")
    preprocessor = Data2VecAudioClassifierPreprocessor(d2v_tf.Data2VecAudioConverter())
    ctc = d2v_tf.Data2VecSpeechCTC(backbone, LETTERS, preprocessor=preprocessor)
    ctc.save_to_preset(str(root / "ctc"))
    tagger = d2v_tf.Data2VecAudioClassifier(
        backbone, 2, preprocessor, class_names=("hiss", "hum"), multi_label=True
    )
    tagger.save_to_preset(str(root / "tagger" / "preset"))
    (root / "tagger" / "config.yaml").write_text(
        "modality: speech\ntask: tag\ndata: {max_seconds: 0.07}\n"
    )
    return root


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A table of GLUE's kind, sentences, and a model of pairs."""
    root = tmp_path_factory.mktemp("texts")
    rows = ["index\tquestion\tanswer\tright"]
    rows += [f"{i}\ta cat {i}\ta mat\t{('no', 'yes')[i % 2]}" for i in range(12)]
    (root / "t.tsv").write_text("\n".join([*rows, "12\tbad"]) + "\n")
    (root / "test.tsv").write_text("question\tanswer\na cat\ta mat\n")
    (root / "lines.txt").write_text("a cat\n\na mat\n")
    tokenizer = train_tokenizer(["a cat sat on a mat"], 270)
    backbone = make_backbone(
        "text", vocabulary_size=tokenizer.vocabulary_size, max_sequence_length=24
    )
    preprocessor = Data2VecTextClassifierPreprocessor(tokenizer.in_graph(), sequence_length=12)
    task = d2v_tf.Data2VecTextClassifier(
        backbone, 2, preprocessor=preprocessor, class_names=("no", "yes")
    )
    task.save_to_preset(str(root / "pairs" / "preset"))
    task.save_to_preset(str(root / "plain"))
    columns = "{sentence: question, second_sentence: answer}"
    recipe = f"modality: text\ntask: classify\ndata: {{columns: {columns}}}\n"
    (root / "pairs" / "config.yaml").write_text(recipe)
    return root


def test_speech_is_recognized_frame_by_frame(sounds):
    data = [f"--model={sounds}/ctc", f"--data=manifest:{sounds}/list.tsv"]
    printed = evaluate(*data, f"--out={sounds}/report")
    assert "wer" in printed and "word errors" in printed
    report = json.loads((sounds / "report" / "evaluation.json").read_text())
    assert set(report["scores"]) == {"wer", "cer"}
    assert not (sounds / "report" / "confusion.png").exists()


def test_speech_is_recognized_by_a_beam_search_with_words(sounds):
    pytest.importorskip("flashlight.lib.text")
    data = [f"--model={sounds}/ctc", f"--data=manifest:{sounds}/list.tsv"]
    beam = ["--beam_size=20", f"--words={sounds}/words.txt", f"--lm={sounds}/words.arpa"]
    (found,) = evaluate(*data, *beam, "--word_score=1", "--json")
    assert found["scores"]["wer"] >= 0
    said = evaluate(*data, *beam, "--predict", "--json")
    assert [line["name"] for line in said] == [f"{sounds}/{i}.wav" for i in range(4)]
    assert {word for line in said for word in line["text"].split()} <= {"ab", "ba"}


def test_what_a_single_recording_says(sounds):
    (said,) = evaluate(f"--model={sounds}/ctc", "--predict", "--json", f"{sounds}/0.wav")
    assert set(said) == {"name", "text"} and set(said["text"]) <= set("ab ")
    printed = evaluate(f"--model={sounds}/tagger", "--predict", f"{sounds}/0.wav")
    assert printed.splitlines()[-1].startswith(f"{sounds}/0.wav\t")


def test_a_tagger_is_measured_on_what_its_run_was(sounds):
    data = f"--data=table:{sounds}/tags.tsv"
    done = run_tool("evaluate.py", f"--model={sounds}/tagger", data, "--json")
    assert 0 <= json.loads(done.stdout)["scores"]["mean_average_precision"] <= 1
    assert "1 of 4 recordings are longer than 0.07 s: their middle is taken" in done.stderr


def test_features_of_every_frame(sounds):
    evaluate(
        f"--model={sounds}/ctc",
        f"--data=folder:{sounds}",
        "--per_position",
        f"--features={sounds}/frames.npz",
    )
    backbone = make_backbone("speech_invariant")
    with np.load(sounds / "frames.npz") as arrays:
        lengths = np.diff(arrays["row_splits"])
        expected = [backbone.feature_lengths(900 + 100 * i) for i in range(4)]
        assert lengths.tolist() == expected and arrays["features"].shape == (sum(expected), 12)


def test_columns_of_pairs_and_bad_lines(texts):
    columns = "--columns=question,answer,right"
    data = [f"--model={texts}/pairs", f"--data=table:{texts}/t.tsv", columns]
    (found,) = evaluate(*data, "--max_bad=0.1", "--json")
    assert set(found["scores"]) == {"accuracy", "macro_f1"}
    done = run_tool("evaluate.py", *data)
    assert done.returncode == 1 and "or raise --max_bad." in done.stderr


def test_predictions_of_texts_without_labels(texts):
    pairs = [f"--model={texts}/pairs/preset", "--predict", f"--data=table:{texts}/test.tsv"]
    (said,) = evaluate(*pairs, "--columns=question,answer,right", "--json")  # right is not there
    assert said["name"].endswith("test.tsv, line 2") and said["label"] in ("no", "yes")
    lines = [f"--model={texts}/plain", f"--data=text:{texts}/lines.txt"]
    said = evaluate(*lines, "--predict", "--json")
    assert [row["name"].split()[-1] for row in said] == ["1", "3"]
    printed = evaluate(*lines, f"--features={texts}/lines.npz")
    assert "features 2 x 12 of 2 examples" in printed


def test_frozen_features_of_images(tmp_path):
    for part, number in (("train", 8), ("test", 4)):
        write_tree(tmp_path / part, number)
    make_backbone("vision_per_block").save_to_preset(str(tmp_path / "preset"))
    converter = d2v_tf.Data2VecImageConverter(image_size=(12, 12), scale=1 / 127.5, offset=-1.0)
    converter.save_to_preset(str(tmp_path / "preset"))
    (scores,) = evaluate(
        f"--model={tmp_path}/preset",
        "--probe",
        f"--train_data=folder:{tmp_path}/train",
        f"--data=folder:{tmp_path}/test",
        "--json",
    )
    assert 0 <= scores["knn"] <= 1 and 0 <= scores["linear"] <= 1
    assert (scores["train_examples"], scores["test_examples"]) == (8, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--predict", "a cat"], "was fine-tuned on pairs of texts, and 'a cat' has no second"),
        (["--data=table:t.tsv", "--columns=question"], "--columns=question: give SENTENCE,LABEL"),
        (["--predict", "--data=table:t.tsv", "--columns=a,b,c,d"], "with a comma behind it."),
        (["--data=folder:x", "--split=dev"], "--split is of a task of GLUE: add --task=glue:NAME"),
        (
            ["--data=folder:x", "--task=glue:MNLI", "--split=dev"],
            "MNLI has the splits train, dev_m",
        ),
        (
            ["--data=table:test.tsv", "--columns=question,answer,", "--predict", "--beam_size=9"],
            "--beam_size is for speech recognition",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(texts, arguments, message):
    done = run_tool("evaluate.py", f"--model={texts}/pairs", *arguments, cwd=texts)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert message in done.stderr.splitlines()[-1]
