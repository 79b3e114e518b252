"""The vision data of a run: batches for training, labelled sets for the probes."""

import keras
import numpy as np
import tensorflow as tf
from keras_hub.layers import ImageConverter

from d2v_tf.backbones.vision import Data2VecVisionBackbone
from d2v_tf.data.reading import BadExamples, DataError, first_line
from d2v_tf.data.vision import evaluation_dataset, pretraining_dataset
from d2v_tf.data.vision_sources import open_images
from d2v_tf.finetuning.probes import raw_features
from d2v_tf.masking import num_masked_patches
from d2v_tf.training.evidence import ProbeTask
from d2v_tf.training.modalities import Modality


@keras.saving.register_keras_serializable(package="d2v_tf")
class Data2VecImageConverter(ImageConverter):
    """Resizes and normalises images as they were in pre-training; part of a preset.

    Input: `[B, H, W, C]` with values from 0 to 255. Output: what the backbone is called with.
    """

    backbone_cls = Data2VecVisionBackbone


def max_masked_patches(recipe):
    """The quota of masked patches in an image."""
    if recipe.mask.num_masked is not None:
        return recipe.mask.num_masked
    height, width, _ = recipe.model.image_shape
    patch = recipe.model.patch_size
    return num_masked_patches((height // patch, width // patch), recipe.mask.ratio)


class VisionData:
    """What a run reads.

    Args:
        recipe: a `VisionRecipe`.
        warn: callable(str), for a file that is skipped.

    Raises:
        DataError: where the source cannot be opened.
    """

    def __init__(self, recipe, warn):
        self.recipe = recipe
        group = recipe.data
        self.source = open_images(group.source, tfds_dir=group.tfds_dir)
        self.bad_examples = BadExamples(
            self.source.name, self.source.num_examples, max_bad=group.max_bad, warn=warn
        )
        self.eval_source = group.eval_source
        if group.eval_source is None and group.source == "builtin":
            self.eval_source = "builtin:test"
        self.warn = warn

    @property
    def name(self):
        """str. What is read, for the summary."""
        return self.source.name

    @property
    def num_examples(self):
        """int. Examples in an epoch."""
        return self.source.num_examples

    @property
    def batches_per_epoch(self):
        """float. Updates that see every image once."""
        return self.num_examples / self.recipe.batch_size

    def describe_batch(self):
        """str. What an update sees, for the summary."""
        return f"{self.recipe.batch_size} examples an update"

    def explain(self, error):
        """The `DataError` behind a TensorFlow error from the input pipeline, or that error."""
        if self.bad_examples.error is not None:
            return self.bad_examples.error
        if isinstance(error, tf.errors.DataLossError):
            return DataError(f"data: {self.name} is corrupt: {first_line(error)}.")
        return error

    def batches(self, step):
        """The batches from update `step` on, without end."""
        recipe = self.recipe
        group = recipe.data
        return pretraining_dataset(
            self.source,
            image_shape=recipe.model.image_shape,
            patch_size=recipe.model.patch_size,
            batch_size=recipe.batch_size,
            seed=recipe.seed,
            start=step * recipe.batch_size,
            num_masked=max_masked_patches(recipe),
            min_block=recipe.mask.min_block,
            max_aspect=recipe.mask.max_aspect,
            crop_scale=group.crop_scale,
            crop_ratio=group.crop_ratio,
            flip=group.flip,
            color_jitter=group.color_jitter,
            mean=group.mean,
            std=group.std,
            bad_examples=self.bad_examples,
            shuffle=group.shuffle,
        )

    def probe_tasks(self):
        """What the backbone is probed on: the images' classes, where there are any.

        Without `data.eval_source`, every fifth example is for testing. At most
        `data.probe_examples` are for training, evenly spread over the source.

        Returns:
            list of `ProbeTask`.
        """
        if not self.source.has_labels:
            return []
        for_training = np.ones(self.num_examples, bool)
        if self.eval_source is None:
            for_training[4::5] = False
            test = self._labelled(self.source, ~for_training)
        else:
            test = self._labelled(open_images(self.eval_source, self.recipe.data.tfds_dir))
        train = self._labelled(self.source, for_training, limited=True)
        return [ProbeTask("class", train, test, "raw pixels", raw_features)]

    def _labelled(self, source, keep=None, limited=False):
        limit = self.recipe.data.probe_examples
        if limited and keep.sum() > limit:
            chosen = np.flatnonzero(keep)[np.linspace(0, keep.sum() - 1, limit).astype(int)]
            keep = np.isin(np.arange(len(keep)), chosen)
        group = self.recipe.data
        return evaluation_dataset(
            source,
            image_shape=self.recipe.model.image_shape,
            mean=group.mean,
            std=group.std,
            batch_size=256,
            bad_examples=BadExamples(source.name, source.num_examples, group.max_bad, self.warn),
            keep=keep,
        )

    def counts(self):
        """Numbers to log with every logged update."""
        return {"bad_examples": self.bad_examples.count}

    def save_preprocessing(self, folder):
        """Adds to a preset what turns an image into the backbone's input."""
        mean, std = np.array(self.recipe.data.mean), np.array(self.recipe.data.std)
        Data2VecImageConverter(
            image_size=self.recipe.model.image_shape[:2],
            scale=(1 / (255 * std)).tolist(),
            offset=(-mean / std).tolist(),
            crop_to_aspect_ratio=True,
        ).save_to_preset(folder)


MODALITY = Modality(Data2VecVisionBackbone, VisionData, max_masked_patches)
