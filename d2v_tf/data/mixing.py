"""Mixup and CutMix: examples of a batch mixed in pairs, and their labels in the same parts."""

import keras
import tensorflow as tf

from d2v_tf.data.keras_layers import StatelessSeeds, pipeline_layer

# Of batches for which both mixup and CutMix are asked, the part that is mixed by CutMix; timm's.
CUTMIX_PART = 0.5


class ImageMixer:
    """Mixes each image with another one of its batch, by mixup or CutMix.

    Mixup (arXiv 1710.09412) adds them, weighted by w and 1 - w; CutMix (arXiv 1905.04899) pastes a
    box of the other one. w is drawn for each image, from Beta(alpha, alpha); who goes with whom,
    and which of the two ways a batch goes, for the batch. The work is that of Keras' layers, whose
    CutMix boxes lie inside the image; the paper's may stick out.

    Called with images float32 `[B, H, W, C]`, labels float32 `[B, K]` and a seed int64 `[2]`, the
    batch's; gives images and labels. A label's weight is its image's part of the pixels.

    Args:
        mixup: float. Alpha of mixup, 0 = none.
        cutmix: float in [0, 1]. Alpha of CutMix, 0 = none.
    """

    def __init__(self, mixup=0.0, cutmix=0.0):
        self._ways = []
        if cutmix:
            # A single number would be the highest of the alphas.
            self._cut_mix = pipeline_layer(keras.layers.CutMix, factor=(cutmix, cutmix))
            self._ways.append(self._by_cut_mix)
        if mixup:
            self._mix_up = pipeline_layer(keras.layers.MixUp, alpha=mixup)
            self._ways.append(self._by_mix_up)

    def __call__(self, images, labels, seed):
        if not self._ways:
            return images, labels
        seeds = StatelessSeeds(seed)
        if len(self._ways) == 1:
            return self._ways[0](images, labels, seeds)
        is_cut = tf.random.stateless_uniform([], seeds.next()) < CUTMIX_PART
        return tf.cond(
            is_cut,
            lambda: self._by_cut_mix(images, labels, seeds),
            lambda: self._by_mix_up(images, labels, seeds),
        )

    def _by_cut_mix(self, images, labels, seeds):
        drawn = self._cut_mix.get_random_transformation(images, seed=seeds)
        # The layer's weight is of a box with borders between the pixels: count the pixels.
        pasted = tf.reduce_mean(tf.cast(drawn["batch_masks"], tf.float32), axis=(1, 2, 3))
        return _mix(self._cut_mix, images, labels, {**drawn, "mix_weight": 1 - pasted})

    def _by_mix_up(self, images, labels, seeds):
        drawn = self._mix_up.get_random_transformation(images, seed=seeds)
        return _mix(self._mix_up, images, labels, drawn)


class WaveformMixer:
    """Mixes each waveform with another one of its batch: `w * one + (1 - w) * other`.

    Labels are mixed in the same parts, also where an example has several: so do the published
    recipes for AudioSet (PSLA, arXiv 2102.01243; AST, arXiv 2104.01778; data2vec's released code).
    The union of the tags would call a sound present however faint it is.

    Called with waveforms float32 `[B, N]`, zeros behind each one's end, their lengths int32 `[B]`,
    labels float32 `[B, K]` and a seed int64 `[2]`, the batch's; gives the first three. A mixture
    is as long as the longer of its two.

    Args:
        alpha: float. w is drawn for each waveform from Beta(alpha, alpha); 0 = no mixing.
        probability: float. The part of the waveforms that is mixed.
    """

    def __init__(self, alpha=0.0, probability=1.0):
        self._mix_up = pipeline_layer(keras.layers.MixUp, alpha=alpha) if alpha else None
        self.probability = probability

    def __call__(self, waveforms, lengths, labels, seed):
        if self._mix_up is None:
            return waveforms, lengths, labels
        seeds = StatelessSeeds(seed)
        as_images = waveforms[:, :, None, None]
        drawn = self._mix_up.get_random_transformation(as_images, seed=seeds)
        is_mixed = tf.random.stateless_uniform(tf.shape(lengths), seeds.next()) < self.probability
        drawn = {**drawn, "mix_weight": tf.where(is_mixed, drawn["mix_weight"], 1.0)}
        others = tf.gather(lengths, drawn["permutation_order"])
        lengths = tf.where(is_mixed, tf.maximum(lengths, others), lengths)
        mixed, labels = _mix(self._mix_up, as_images, labels, drawn)
        return mixed[:, :, 0, 0], lengths, labels


def _mix(layer, images, labels, drawn):
    return layer.transform_images(images, drawn), layer.transform_labels(labels, drawn)
