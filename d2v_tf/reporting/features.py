"""Examples and what a backbone makes of them, for pictures."""

import dataclasses

import keras
import numpy as np
from keras import ops

from d2v_tf.finetuning.probes import hidden_states, mean_of_real

# Maps of colors and attention are of a few examples.
NUM_MAPPED = 6
BATCH = 50


@dataclasses.dataclass(frozen=True)
class Seen:
    """N examples and a backbone's features of them.

    Attributes:
        inputs: list of N examples as the backbone is called with them, without batch and padding.
        pooled: float32 array `[N, D]`, the mean over real positions of the last hidden states.
        labels: int array `[N]`, -1 where there is none.
        class_names: tuple of str, or `None`.
        mapped: the numbers of a few examples, evenly spread.
        hidden: list of float32 arrays `[T, D]`, the last hidden states of those.
    """

    inputs: list
    pooled: np.ndarray
    labels: np.ndarray
    class_names: tuple | None
    mapped: list
    hidden: list

    def label(self, index):
        """The name of an example's class, or an empty str."""
        number = int(self.labels[index])
        if number < 0:
            return ""
        return self.class_names[number] if self.class_names else str(number)


def see(backbone, data, count):
    """Runs a backbone over examples of a run's data.

    Args:
        backbone: `Data2VecBackbone`.
        data: what the run reads.
        count: int. About how many.

    Returns:
        `Seen`.
    """
    dataset, class_names = data.whole_examples(count, BATCH)
    inputs, pooled, labels = [], [], []
    for batch, batch_labels in dataset:
        states, real = hidden_states(backbone, batch)
        batch = keras.tree.map_structure(np.asarray, batch)
        pooled.append(mean_of_real(states, real))
        labels.append(np.asarray(batch_labels))
        inputs += [without_padding(batch, row) for row in range(len(states))]
        if len(inputs) >= count:  # what is read front to back would be read to its end
            break
    inputs = inputs[:count]
    pooled, labels = np.concatenate(pooled)[:count], np.concatenate(labels)[:count]
    mapped = sorted(set(np.linspace(0, len(inputs) - 1, NUM_MAPPED).astype(int).tolist()))
    hidden = [hidden_states(backbone, batch_of(inputs[i]))[0][0] for i in mapped]
    return Seen(inputs, pooled, labels, class_names, mapped, hidden)


def batch_of(example):
    """A batch of one example: an array, or a dict of them."""
    return keras.tree.map_structure(lambda array: ops.convert_to_tensor(array[None]), example)


def without_padding(batch, row):
    """One example of a batch of arrays: an array, or a dict of them, cut to what is real."""
    if not isinstance(batch, dict):
        return batch[row]
    if "padding_mask" not in batch:
        return {name: array[row] for name, array in batch.items()}
    real = batch["padding_mask"][row].astype(bool)
    return {name: array[row][real] for name, array in batch.items()}


def attention_of(backbone, example):
    """The last block's attention, the mean of its heads: float32 `[P + T, P + T]`."""
    weights = backbone.attention_weights(batch_of(example))[-1]
    return ops.convert_to_numpy(ops.mean(weights[0], axis=0))
