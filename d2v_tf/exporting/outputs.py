"""What a served model answers: named tensors, float32 whatever it computes in."""

import tensorflow as tf

from d2v_tf.finetuning.ctc import Data2VecSpeechCTC
from d2v_tf.finetuning.decoding import greedy_ids
from d2v_tf.finetuning.letters import SPECIALS, UNKNOWN, WORD_END


def features(backbone, inputs):
    """What a backbone makes of its input.

    Args:
        backbone: `Data2VecBackbone`.
        inputs: what it is called with.

    Returns:
        dict of `embedding` `[B, D]`, the mean of the last hidden states over real positions without
        prefix tokens, as `tools/evaluate.py --features` writes it; `hidden_states` `[B, P + T, D]`;
        and for speech and text `lengths` int32 `[B]`: behind so many positions there is padding.
    """
    hidden = tf.cast(backbone(inputs, training=False), tf.float32)
    mask = backbone.feature_padding_mask(inputs)
    if mask is None:
        embedding = tf.reduce_mean(hidden[:, backbone.num_prefix_tokens :], axis=1)
        return {"embedding": embedding, "hidden_states": hidden}
    lengths = tf.reduce_sum(tf.cast(mask, tf.int32), axis=1)
    total = tf.reduce_sum(tf.where(mask[..., None], hidden, 0.0), axis=1)
    embedding = total / tf.cast(tf.maximum(lengths, 1), tf.float32)[:, None]
    return {"embedding": embedding, "hidden_states": hidden, "lengths": lengths}


def answers(task, inputs):
    """What a task says about its input.

    Args:
        task: a classifier or `Data2VecSpeechCTC`.
        inputs: what its backbone is called with.

    Returns:
        dict of `logits`, and: of one class an example `probabilities` `[B, C]` and `label` string
        `[B]`; of several `probabilities` and `tags` string `[B, C]`, empty where a class is not
        there; of a regression `value` `[B]`; of speech recognition `probabilities` `[B, T, V]`,
        `lengths` int32 `[B]`, the real frames, and `text` string `[B]`, decoded greedily.
    """
    logits = tf.cast(task(inputs, training=False), tf.float32)
    if isinstance(task, Data2VecSpeechCTC):
        lengths = task.frame_lengths(inputs)
        return {
            "logits": logits,
            "probabilities": tf.nn.softmax(logits),
            "lengths": lengths,
            "text": greedy_text(logits, lengths, task.vocabulary),
        }
    names = label_names(task)
    if names is None:
        return {"logits": logits, "value": logits[:, 0]}
    if getattr(task, "multi_label", False):
        probabilities = tf.sigmoid(logits)
        tags = tf.where(probabilities > 0.5, tf.constant(names)[None], "")
        return {"logits": logits, "probabilities": probabilities, "tags": tags}
    label = tf.gather(tf.constant(names), tf.argmax(logits, axis=-1))
    return {"logits": logits, "probabilities": tf.nn.softmax(logits), "label": label}


def label_names(task):
    """What the last axis of `logits` stands for: a tuple of str, or `None` for a regression."""
    if isinstance(task, Data2VecSpeechCTC):
        return task.vocabulary
    if task.num_classes == 1 and not getattr(task, "multi_label", False):
        return None
    return task.class_names or tuple(str(i) for i in range(task.num_classes))


def greedy_text(logits, lengths, vocabulary):
    """The words that are heard, as `GreedyDecoder` has them: string `[B]`.

    Args:
        logits: `[B, T, V]`.
        lengths: int `[B]`. Real frames.
        vocabulary: tuple of V str, the blank first.
    """
    silent = set(SPECIALS) - {UNKNOWN, WORD_END}
    spoken = [" " if e == WORD_END else "" if e in silent else e for e in vocabulary]
    ids, _ = greedy_ids(logits, lengths)  # [B, T], -1 behind the last
    letters = tf.gather(tf.constant([*spoken, ""]), tf.where(ids < 0, len(vocabulary), ids))
    text = tf.strings.reduce_join(letters, axis=1)
    return tf.strings.strip(tf.strings.regex_replace(text, r"\s+", " "))
