"""Labelled images for a fine-tuning run."""

import keras
import numpy as np

from d2v_tf.backbones.preprocessing import Data2VecImageConverter
from d2v_tf.data.labels import find_classes, labels_of
from d2v_tf.data.reading import DataError
from d2v_tf.data.vision_labelled import evaluation_dataset, training_dataset
from d2v_tf.data.vision_sources import open_images
from d2v_tf.finetuning.image_classifier import Data2VecImageClassifier
from d2v_tf.finetuning.metrics import evaluate
from d2v_tf.finetuning.preprocessors import Data2VecImageClassifierPreprocessor
from d2v_tf.interop.resizing import resize_backbone
from d2v_tf.training.labelled_data import (
    LabelledData,
    describe_classes,
    predict,
    split_off,
    take_fraction,
)

EVALUATION_BATCH = 64
# Of values in [0, 1], where neither recipe nor backbone says.
MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


class ImageClasses(LabelledData):
    """Images with a class each.

    Args:
        recipe: a `FinetuneVisionRecipe`.
        backbone: `Data2VecVisionBackbone`, whose images these become.
        preprocessing: its `Data2VecImageConverter`, or `None`.
        warn: callable(str), for a file that is skipped.

    Raises:
        DataError: where a source cannot be opened or has no classes.
    """

    def __init__(self, recipe, backbone, preprocessing, warn):
        group = recipe.data
        source = open_images(group.source, group.tfds_dir)
        eval_spec = group.eval_source or ("builtin:test" if group.source == "builtin" else None)
        if eval_spec is None:
            source, eval_source = split_off(source)
        else:
            eval_source = open_images(eval_spec, group.tfds_dir)
        self.class_names = find_classes(source)
        source = take_fraction(recipe, source, labels_of(source)[0])
        super().__init__(recipe, warn, source, eval_source)
        size, patch = group.image_size, backbone.patch_size
        if size is not None and size % patch:
            raise DataError(
                f"data.image_size: {size} pixels are not whole patches of the backbone's {patch}. "
                f"Give {max(size // patch, 1) * patch} or {(size // patch + 1) * patch}."
            )
        self.image_shape = backbone.image_shape if size is None else (size, size, 3)
        mean, std = mean_and_std(preprocessing)
        self.view = {
            "class_names": self.class_names,
            "image_shape": self.image_shape,
            "mean": group.mean or mean,
            "std": group.std or std,
        }

    def describe_labels(self):
        """str. What is told apart, for the summary."""
        return describe_classes(self.class_names)

    def build_task(self, backbone):
        """A classifier on the backbone, compiled with its loss; resizes its position tables."""
        if backbone.image_shape != self.image_shape:
            backbone = resize_backbone(backbone, self.image_shape)
        head = self.recipe.head
        task = Data2VecImageClassifier(
            backbone,
            len(self.class_names),
            class_names=self.class_names,
            pooling=head.pooling,
            dropout=head.dropout,
        )
        task.compile(
            loss=keras.losses.CategoricalCrossentropy(
                from_logits=True, label_smoothing=head.label_smoothing
            ),
            metrics=None,
        )
        return task

    def batches(self, step):
        """The batches from update `step` on, without end."""
        recipe, group = self.recipe, self.recipe.data
        return training_dataset(
            self.source,
            **self.view,
            batch_size=recipe.batch_size,
            seed=recipe.seed,
            start=step * recipe.batch_size,
            bad_examples=self.bad_examples,
            crop_scale=group.crop_scale,
            crop_ratio=group.crop_ratio,
            flip=group.flip,
            color_jitter=group.color_jitter,
            rand_augment=group.rand_augment,
            erasing=group.erasing,
            mixup=group.mixup,
            cutmix=group.cutmix,
        )

    def evaluation_batches(self):
        """Each image that is measured on, once: (images, one-hot labels)."""
        return evaluation_dataset(
            self.eval_source,
            **self.view,
            batch_size=EVALUATION_BATCH,
            bad_examples=self.count_bad(self.eval_source),
        )

    def evaluate(self, task):
        """Accuracy and macro F1: dict of floats."""
        logits, labels = predict(task, self.evaluation_batches())
        return dict(evaluate(("accuracy", "macro_f1"), logits, labels, self.class_names).scores)

    def save_preset(self, task, folder):
        """Writes the classifier, with what makes its input out of images of any size."""
        mean, std = (np.asarray(self.view[name]) for name in ("mean", "std"))
        task.preprocessor = Data2VecImageClassifierPreprocessor(
            Data2VecImageConverter(
                image_size=self.image_shape[:2],
                scale=(1 / (255 * std)).tolist(),
                offset=(-mean / std).tolist(),
                crop_to_aspect_ratio=True,
                antialias=True,
            )
        )
        task.compile()  # what it was trained with is no part of it
        task.save_to_preset(folder)


def mean_and_std(converter):
    """What a converter subtracts from values in [0, 1], and divides by: two tuples a channel."""
    if converter is None:
        return MEAN, STD
    std = 1 / (255 * np.broadcast_to(np.asarray(converter.scale, "float64"), 3))
    mean = -np.broadcast_to(np.asarray(converter.offset, "float64"), 3) * std
    return tuple(mean.tolist()), tuple(std.tolist())


TASKS = {"classify": ImageClasses}
