"""A text run and the corpus that was prepared for it."""

from pathlib import Path

import pytest
from rich.console import Console

from d2v_tf.config import load_finetune_recipe, load_recipe
from d2v_tf.data.prepare_text import prepare_text
from d2v_tf.data.reading import DataError
from d2v_tf.data.tokenization import load_tokenizer, train_tokenizer
from d2v_tf.training.finetune_text import TextLabels, open_tokenizer
from d2v_tf.training.text import TextData
from tests.data.texts import write_corpus
from tests.interop.tiny import make_backbone

TINY = Path(__file__).resolve().parents[2] / "configs" / "pretrain" / "text_tiny.yaml"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus")
    write_corpus(path / "text", 4)
    options = {"vocabulary_size": 300, "row_length": 32, "workers": 1}
    prepare_text(f"text:{path}/text/*", str(path / "out"), Console(quiet=True), **options)
    return f"folder:{path}/out"


def open_data(source, *overrides):
    recipe = load_recipe(TINY, [f"data.source='{source}'", *overrides])
    return TextData(recipe, warn=lambda line: None)


def test_a_corpus_that_fits_is_opened(prepared):
    data = open_data(prepared, "model.max_sequence_length=32", "model.vocabulary_size=300")
    assert data.num_examples > 0


@pytest.mark.parametrize(
    "overrides",
    [
        ("model.max_sequence_length=16", "model.vocabulary_size=300"),
        ("model.max_sequence_length=32", "model.vocabulary_size=280"),
        ("model.max_sequence_length=16", "model.vocabulary_size=280"),
    ],
)
def test_a_corpus_too_large_for_the_model_is_told_all_at_once(prepared, overrides):
    length, size = (setting.split("=")[1] for setting in overrides)
    message = (
        f"rows of 32 tokens of a vocabulary of 300; .*--row_length={length} --vocab_size={size}"
    )
    with pytest.raises(DataError, match=message):
        open_data(prepared, *overrides)


def test_text_is_tokenized_as_what_the_run_starts_from_was(prepared, tmp_path):
    folder = prepared.removeprefix("folder:")
    tokenizer = load_tokenizer(f"{folder}/tokenizer")
    make_backbone("text", vocabulary_size=300).save_to_preset(str(tmp_path / "init"))
    tokenizer.in_graph().save_to_preset(str(tmp_path / "init"))
    settings = [f"init={tmp_path}/init", "model.vocabulary_size=300"]
    data = open_data("builtin", *settings)
    assert data.corpus.tokenizer.vocabulary == tokenizer.vocabulary
    train_tokenizer(["other words of another text"] * 3, 290).in_graph().save_to_preset(
        str(tmp_path / "init")
    )
    with pytest.raises(DataError, match="was tokenized otherwise than what .*init was trained on"):
        open_data(prepared, *settings, "model.max_sequence_length=32")
    (tmp_path / "init" / "tokenizer.json").unlink()
    warned = []
    recipe = load_recipe(TINY, ["data.source=builtin", *settings])
    TextData(recipe, warn=warned.append)
    assert warned == [
        f"{tmp_path}/init came without a tokenizer: the data's has to be the one that it was "
        "trained with"
    ]


def test_a_classifier_from_scratch_is_told_where_tokenizer_and_recipe_come_from(prepared):
    backbone = make_backbone("text", vocabulary_size=20)
    with pytest.raises(DataError, match="data.tokenizer=corpus/tokenizer.*scratch=RUN/config.yaml"):
        open_tokenizer(None, backbone, None)
    folder = f"{prepared.removeprefix('folder:')}/tokenizer"
    with pytest.raises(DataError, match="300 tokens and the backbone 20 .*scratch=RUN/config.yaml"):
        open_tokenizer(folder, backbone, None)


@pytest.mark.parametrize(
    ("rows", "same"),
    [
        (["a tree\tgood", "the sea\tbad"], True),
        (["a tree\tgood", "the sea\tfair"], True),
        (["a tree\tgood", "the sun\tbad"], False),
    ],
)
def test_labelled_texts_have_no_names_and_a_fingerprint_too(prepared, tmp_path, rows, same):
    tokenizer = prepared.removeprefix("folder:") + "/tokenizer"
    table = tmp_path / "rows.tsv"
    recipe = load_finetune_recipe(
        TINY.parents[1] / "finetune" / "text_tiny.yaml",
        [f"data.{key}=table:{table}" for key in ("source", "eval_source")]
        + [f"data.tokenizer={tokenizer}"],
    )
    backbone = make_backbone("text", vocabulary_size=300, max_sequence_length=16)

    def fingerprint(rows):
        table.write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
        return TextLabels(recipe, backbone, None, warn=print).fingerprint

    began = fingerprint(["a tree\tgood", "the sea\tbad"])
    assert (fingerprint(rows) == began) == same
