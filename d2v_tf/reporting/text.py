"""What is shown of texts: hidden tokens, colors of tokens, and attention between them."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from d2v_tf.reporting.features import attention_of
from d2v_tf.reporting.figures import enlarged, escape, principal_colors

NUM_EXAMPLES = 300
NUM_MASKED, NUM_DRAWN, NUM_HEATS = 4, 3, 2
# Tokens of a map of attention, and characters of a neighbor.
MOST_TOKENS, MOST_CHARACTERS = 24, 160
# Stands for a token that is a part of the character after it.
PART = "·"


class Token(NamedTuple):
    """A token of a masked row: its text, what the student saw, whether to predict it, its kind."""

    text: str
    seen: str
    hidden: bool
    special: bool


def masks(batch, data):
    """Rows of text with the tokens that are hidden from the student, as HTML."""
    rows = []
    for row in range(min(NUM_MASKED, len(batch["mask"]))):
        tokens = "".join(map(_span, row_of(batch, row, data)))
        rows.append(f'<p class="tokens">{tokens}</p>')
    return "".join(rows)


def features(seen, backbone, data):
    """Texts in the colors of their tokens' features, and attention between tokens, as HTML."""
    parts, heats = [], []
    colors = principal_colors(seen.hidden)
    for index, rgb in list(zip(seen.mapped, colors, strict=True))[::2][:NUM_DRAWN]:
        example = seen.inputs[index]
        texts = data.corpus.tokenizer.texts_of(example["token_ids"])
        colored = "".join(
            f'<span class="colored" style="background: rgb({r}, {g}, {b})">{escape(text)}</span>'
            for text, (r, g, b) in zip(texts, rgb, strict=True)
        )
        label = seen.label(index)
        parts.append(f'<p class="tokens">{colored}</p>')
        parts.append(f'<p class="note">{escape(label)}</p>' if label else "")
        heats.append(f"<div>{heat(attention_of(backbone, example), texts)}</div>")
    return "".join([*parts, '<div class="panels">', *heats[:NUM_HEATS], "</div>"])


def thumbnail(example, data):
    """The beginning of one text, as HTML."""
    tokenizer = data.corpus.tokenizer
    special = set(tokenizer.special_token_ids)
    text = tokenizer.decode([i for i in example["token_ids"] if i not in special]).strip()
    short = text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]} ..."
    return f"<div>{escape(short)}</div>"


def heat(attention, texts):
    """A table of who attends to whom, as HTML, with the numbers that its colors stand for."""
    texts = texts[:MOST_TOKENS]
    part = attention[: len(texts), : len(texts)]
    low, high = part.min(), np.percentile(part, 99)
    part = np.clip((part - low) / max(high - low, 1e-12), 0, 1)
    part_of = f"; {PART} is a part of the character after it" if "" in texts else ""
    texts = [text or PART for text in texts]
    head = "".join(f"<th>{escape(text)}</th>" for text in texts)
    rows = "".join(
        f"<tr><th>{escape(text)}</th>"
        + "".join(f'<td style="background: rgb(59 130 208 / {a:.2f})"></td>' for a in row)
        + "</tr>"
        for text, row in zip(texts, part, strict=True)
    )
    head = f"<thead><tr><th></th>{head}</tr></thead>"
    told = f"pale {100 * low:.2g}%, full {100 * high:.2g}% of a row's attention"
    return (
        f'<table class="heat">{head}<tbody>{rows}</tbody></table>'
        f'<p class="note">From a token on the left to one above; {told}{part_of}.</p>'
    )


def row_of(batch, row, data):
    """The real tokens of a row: list of `Token`."""
    tokenizer = data.corpus.tokenizer
    real = np.asarray(batch["padding_mask"][row]).astype(bool)
    names = ("target_token_ids", "token_ids", "mask")
    targets, seen, hidden = (np.asarray(batch[name][row])[real] for name in names)
    special = np.isin(targets, tokenizer.special_token_ids)
    columns = tokenizer.texts_of(targets), tokenizer.texts_of(seen), hidden, special
    return [Token(t, s, bool(h), bool(k)) for t, s, h, k in zip(*columns, strict=True)]


def summarize_masks(batch, data):
    """Writes rows of text to TensorBoard, what is hidden in brackets."""
    rows = [
        "".join(f"[{t.text or PART}]" if t.hidden else t.text for t in row_of(batch, row, data))
        for row in range(len(batch["mask"]))
    ]
    tf.summary.text("masks", [f"    {' '.join(row.split())}" for row in rows])


def summarize_features(batch, targets, data):
    """Writes the colors of the tokens' targets to TensorBoard, a line a row of text."""
    real = np.asarray(batch["padding_mask"]).astype(bool)
    colors = np.zeros((*real.shape, 3), "uint8")
    shown = [row[keep] for row, keep in zip(targets, real, strict=True)]
    colors[real] = np.concatenate(principal_colors(shown))
    tf.summary.image("features", enlarged(colors, 12)[None])


def _span(token):
    if token.hidden:
        title = escape(f"the student saw {token.seen!r}")
        return f'<span class="hidden" title="{title}">{escape(token.text or PART)}</span>'
    kind = "special" if token.special else ""
    return f'<span class="{kind}">{escape(token.text)}</span>'
