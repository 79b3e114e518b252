"""The vision data of a run: batches for training, labelled sets for the probes."""

import numpy as np

from d2v_tf.backbones.preprocessing import Data2VecImageConverter
from d2v_tf.backbones.vision import Data2VecVisionBackbone
from d2v_tf.data.reading import DataError
from d2v_tf.data.vision import evaluation_dataset, pretraining_dataset
from d2v_tf.data.vision_sources import open_images
from d2v_tf.finetuning.probes import raw_features
from d2v_tf.masking import num_masked_patches
from d2v_tf.training.evidence import ProbeTask
from d2v_tf.training.modalities import Modality
from d2v_tf.training.run_data import RunData, evenly, hold_out, match_classes, some_of


def max_masked_patches(recipe):
    """The quota of masked patches in an image."""
    if recipe.mask.num_masked is not None:
        return recipe.mask.num_masked
    height, width, _ = recipe.model.image_shape
    patch = recipe.model.patch_size
    return num_masked_patches((height // patch, width // patch), recipe.mask.ratio)


class VisionData(RunData):
    """What a run reads.

    Args:
        recipe: a `VisionRecipe`.
        warn: callable(str), for a file that is skipped.

    Raises:
        DataError: where the source cannot be opened.
    """

    def __init__(self, recipe, warn):
        group = recipe.data
        super().__init__(recipe, warn, open_images(group.source, tfds_dir=group.tfds_dir))
        self.eval_source = group.eval_source
        if group.eval_source is None and group.source == "builtin":
            self.eval_source = "builtin:test"

    @property
    def batches_per_epoch(self):
        """float. Updates that see every image once."""
        return self.num_examples / self.recipe.batch_size

    def describe_batch(self):
        """str. What an update sees, for the summary."""
        return f"{self.recipe.batch_size} examples an update"

    def batches(self, step, num_workers=1, worker=0):
        """The batches from update `step` on, without end; of several workers, this one's rows."""
        size = self.recipe.batch_size
        start, own = step * size, size // num_workers
        return self._batches(start, own, self.bad_examples, num_shards=num_workers, shard=worker)

    def first_examples(self, count):
        """A batch of the run's first `count` images, cropped and masked as an update sees them."""
        return next(iter(self._batches(0, count, self.count_silently(self.source))))

    def _batches(self, start, batch_size, bad_examples, **shards):
        recipe = self.recipe
        group = recipe.data
        return pretraining_dataset(
            self.source,
            image_shape=recipe.model.image_shape,
            patch_size=recipe.model.patch_size,
            batch_size=batch_size,
            seed=recipe.seed,
            start=start,
            num_masked=max_masked_patches(recipe),
            min_block=recipe.mask.min_block,
            max_aspect=recipe.mask.max_aspect,
            crop_scale=group.crop_scale,
            crop_ratio=group.crop_ratio,
            flip=group.flip,
            color_jitter=group.color_jitter,
            mean=group.mean,
            std=group.std,
            bad_examples=bad_examples,
            shuffle=group.shuffle,
            **shards,
        )

    def whole_examples(self, count, batch_size):
        """About `count` images as the probes see them, for pictures of what the backbone makes.

        Returns:
            (dataset of (inputs, labels int64 `[B]`, -1 = none), tuple of class names or `None`).
        """
        keep = some_of(self.source, count, getattr(self.source, "labels", None))
        counter = self.count_silently(self.source)
        dataset = self._labelled(self.source, keep, batch_size, counter)
        return dataset, self.source.class_names

    def probe_tasks(self):
        """What the backbone is probed on: the images' classes, where there are any.

        Without `data.eval_source`, every fifth example is for testing. At most
        `data.probe_examples` are for training, evenly spread over the source.

        Returns:
            list of `ProbeTask`.

        Raises:
            DataError: where `data.eval_source` has no labels, or classes of its own.
        """
        if not self.source.has_labels:
            return []
        if self.eval_source is None:
            for_training = hold_out(self.num_examples)
            test = self._labelled(self.source, ~for_training)
        else:
            for_training = np.ones(self.num_examples, bool)
            other = open_images(self.eval_source, self.recipe.data.tfds_dir)
            if not other.has_labels:
                raise DataError(f"data.eval_source: {other.name} has no labels to probe with.")
            names = self.source.class_names, other.class_names
            test = match_classes(self._labelled(other), *names, other.name)
        train = self._labelled(self.source, evenly(for_training, self.recipe.data.probe_examples))
        return [ProbeTask("class", train, test, "raw pixels", raw_features)]

    def _labelled(self, source, keep=None, batch_size=256, bad_examples=None):
        group = self.recipe.data
        return evaluation_dataset(
            source,
            image_shape=self.recipe.model.image_shape,
            mean=group.mean,
            std=group.std,
            batch_size=batch_size,
            bad_examples=bad_examples or self.count_bad(source),
            keep=keep,
        )

    def save_preprocessing(self, folder):
        """Adds to a preset what turns an image into the backbone's input."""
        image_converter(self.recipe).save_to_preset(folder)


def image_converter(recipe):
    """What turns images into a vision backbone's input: a `Data2VecImageConverter`."""
    mean, std = np.array(recipe.data.mean), np.array(recipe.data.std)
    return Data2VecImageConverter(
        image_size=recipe.model.image_shape[:2],
        scale=(1 / (255 * std)).tolist(),
        offset=(-mean / std).tolist(),
        crop_to_aspect_ratio=True,
    )


MODALITY = Modality(Data2VecVisionBackbone, VisionData, max_masked_patches)
