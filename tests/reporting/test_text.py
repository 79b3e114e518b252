"""What is shown of texts that are not ASCII, whose characters are split over tokens."""

import types

import numpy as np
import pytest
import tensorflow as tf

from d2v_tf.data.tokenization import train_tokenizer
from d2v_tf.reporting import text

SHOWN = "犬 café “quoted” <s>"


@pytest.fixture(scope="module")
def data():
    """Has a tokenizer with a token for each byte, and hardly any other."""
    return types.SimpleNamespace(
        corpus=types.SimpleNamespace(tokenizer=train_tokenizer(["a quoted cafe"], 270))
    )


def batch_of(data, hidden):
    """A row of `SHOWN` between special tokens, where the student sees a mask for some bytes."""
    tokenizer = data.corpus.tokenizer
    ids = [tokenizer.start_token_id, *tokenizer.encode([SHOWN])[0], tokenizer.end_token_id]
    mask = np.isin(np.arange(len(ids)), hidden)
    seen = np.where(mask, tokenizer.mask_token_id, ids)
    rows = {"target_token_ids": ids, "token_ids": seen, "mask": mask, "padding_mask": mask | True}
    return {name: np.array(row)[None] for name, row in rows.items()}


def test_the_page_shows_whole_characters(data):
    # The first two of the three bytes of 犬 are hidden, its last one is not.
    batch = batch_of(data, hidden=[1, 2])
    page = text.masks(batch, data)
    assert "\ufffd" not in page
    for character in "犬é“”":
        assert f">{character}</span>" in page
    assert page.count('class="hidden" title="the student saw &#x27;&lt;mask&gt;&#x27;">·<') == 2
    # The text says <s>, too: only the token at its front is one.
    assert page.count('<span class="special">&lt;s&gt;</span>') == 1
    texts = data.corpus.tokenizer.texts_of(batch["target_token_ids"][0])
    heat = text.heat(np.eye(len(texts)), texts)
    assert "<th>犬</th>" in heat and "\ufffd" not in heat
    assert "<th></th><th>&lt;s&gt;</th><th>·</th><th>·</th><th>犬</th>" in heat
    assert "· is a part of the character after it" in heat
    assert "·" not in text.heat(np.eye(2), ["a", "b"])


def test_tensorboard_shows_whole_characters(data, tmp_path):
    with tf.summary.create_file_writer(str(tmp_path)).as_default(step=0):
        text.summarize_masks(batch_of(data, hidden=[3, 5]), data)
    (file,) = tmp_path.iterdir()
    written = [
        tf.make_ndarray(value.tensor)[0].decode()
        for record in tf.data.TFRecordDataset(str(file))
        for value in tf.compat.v1.Event.FromString(record.numpy()).summary.value
    ]
    # Of 犬 the last byte is hidden, of é the first.
    assert written == ["    <s>[犬] caf[·]é “quoted” <s></s>"]
