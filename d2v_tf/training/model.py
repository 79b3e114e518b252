"""The model of a pre-training recipe, with its optimizer."""

import keras
import tensorflow as tf

from d2v_tf.pretraining.data2vec import Data2Vec
from d2v_tf.pretraining.replicas import predict_on_one_device, replica_scope
from d2v_tf.training.modalities import modality_of
from d2v_tf.training.optimizer import build_optimizer
from d2v_tf.training.precision import POLICIES, resolve_precision, resolve_xla


def build_model(recipe, strategy=None):
    """Builds a recipe's `Data2Vec` with its optimizer, ready to fit.

    Seeds Python, NumPy and Keras with `recipe.seed` first, so equal recipes give equal weights.

    Args:
        recipe: a resolved `Recipe`.
        strategy: optional `tf.distribute.Strategy`, for a model in replicas.

    Returns:
        A compiled `Data2Vec`.
    """
    with replica_scope(strategy or tf.distribute.get_strategy()):
        return _build_model(recipe)


def _build_model(recipe):
    modality = modality_of(recipe)
    precision = resolve_precision(recipe.precision)
    keras.utils.set_random_seed(recipe.seed)
    backbone = modality.backbone(**recipe.model.model_dump(), dtype=POLICIES[precision])
    predict_on_one_device(backbone)  # it is probed by one worker
    xla = resolve_xla(recipe.xla)
    model = Data2Vec(
        backbone,
        **recipe.data2vec.model_dump(),
        max_masked=modality.max_masked(recipe),
        accumulate=recipe.accumulate,
        remat=recipe.remat,
        compile_parts=xla == "parts",
    )
    optimizer = build_optimizer(recipe, model.trainable_variables)
    model.compile(optimizer, jit_compile=xla is True)
    return model
