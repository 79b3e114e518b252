"""The vision data of a run: batches for training, labelled sets for the probes."""

from d2v_tf.masking import num_masked_patches


def max_masked_patches(recipe):
    """The quota of masked patches in an image."""
    if recipe.mask.num_masked is not None:
        return recipe.mask.num_masked
    return num_masked_patches(_grid(recipe), recipe.mask.ratio)


def _grid(recipe):
    height, width, _ = recipe.model.image_shape
    return height // recipe.model.patch_size, width // recipe.model.patch_size
