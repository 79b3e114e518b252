"""Our CTC model against Hugging Face's `Data2VecAudioForCTC`: logits and loss."""

import warnings

import numpy as np
import tensorflow as tf

import d2v_tf
from d2v_tf.finetuning.ctc import Data2VecSpeechCTC
from d2v_tf.finetuning.decoding import GreedyDecoder
from tests.parity.models import assert_close, perturbed, torch, transformers
from tests.parity.test_folders import SPEECH

VOCABULARY = ("<pad>", "<s>", "</s>", "<unk>", "|", "a", "b")
SAMPLES = (900, 640, 333)


def make_pair(folder):
    config = transformers.Data2VecAudioConfig(
        **SPEECH,
        attn_implementation="eager",
        pad_token_id=0,
        ctc_loss_reduction="sum",
        ctc_zero_infinity=True,
    )
    theirs = perturbed(transformers.Data2VecAudioForCTC(config))
    theirs.save_pretrained(folder)
    with warnings.catch_warnings():  # that the head is not the backbone's is no news here
        warnings.simplefilter("ignore", UserWarning)
        backbone = d2v_tf.load_backbone(folder, verbose=False)
    ours = Data2VecSpeechCTC(backbone, VOCABULARY)
    head = theirs.lm_head
    ours.head.set_weights([head.weight.detach().numpy().T, head.bias.detach().numpy()])
    return theirs, ours


def make_inputs():
    rng = np.random.default_rng(0)
    padding_mask = np.arange(max(SAMPLES)) < np.array(SAMPLES)[:, None]
    waveform = (rng.normal(size=padding_mask.shape) * padding_mask).astype("float32")
    return {"waveform": waveform, "padding_mask": padding_mask}


def theirs_of(labels):
    """Labels as they pad them, with -100: an entry of -1 would count."""
    return torch.tensor(np.where(labels < 0, -100, labels)).long()


def test_logits_loss_and_greedy_labels(tmp_path):
    theirs, ours = make_pair(tmp_path)
    inputs = make_inputs()
    # With a repeat, one that no frames of the example can spell, and an empty one.
    labels = np.full((3, 20), -1, "int32")
    labels[0, :6] = [5, 5, 4, 6, 5, 4]
    labels[1] = 6
    batch = {
        "input_values": torch.tensor(inputs["waveform"]),
        "attention_mask": torch.tensor(inputs["padding_mask"]).long(),
    }
    with torch.no_grad():
        expected = theirs(**batch, labels=theirs_of(labels))
    logits = ours(inputs)
    assert_close(logits, expected.logits)
    ours.compile("sgd", jit_compile=False)
    logs = ours.evaluate(inputs, labels, verbose=0, return_dict=True)
    np.testing.assert_allclose(3 * logs["loss"], expected.loss.item(), rtol=1e-4)
    assert logs["too_long"] == 1

    lengths = ours.frame_lengths(inputs)
    decoded = GreedyDecoder(VOCABULARY)(logits, lengths)
    for row, length, text in zip(expected.logits, lengths, decoded, strict=True):
        merged = torch.unique_consecutive(row[: int(length)].argmax(-1)).tolist()
        spelled = "".join(VOCABULARY[i] for i in merged if i not in (0, 1, 2))
        assert text == " ".join(spelled.replace("|", " ").split())


def test_a_gradient_step_of_the_head_is_pytorchs(tmp_path):
    theirs, ours = make_pair(tmp_path)
    inputs = make_inputs()
    labels = np.array([[5, 5, 4, 6], [6, -1, -1, -1], [-1, -1, -1, -1]], "int32")
    loss = theirs(
        input_values=torch.tensor(inputs["waveform"]),
        attention_mask=torch.tensor(inputs["padding_mask"]).long(),
        labels=theirs_of(labels),
    ).loss
    loss.backward()
    ours.compile("sgd", jit_compile=False)
    with tf.GradientTape() as tape:
        value = ours.compute_loss(inputs, labels, ours(inputs))
    got = tape.gradient(value, ours.head.kernel.value)
    assert_close(3 * got.numpy().T, theirs.lm_head.weight.grad)
