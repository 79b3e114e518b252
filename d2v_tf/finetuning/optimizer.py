"""AdamW with a learning rate of its own for each layer."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="d2v_tf")
class LayerwiseAdamW(keras.optimizers.Adam):
    """Adam with decoupled weight decay, whose rates differ from variable to variable.

    A variable's learning rate, and with it its decay, is the optimizer's times the variable's
    scale: PyTorch's AdamW with parameter groups, as BEiT fine-tunes (arXiv 2106.08254).

    Args:
        learning_rate: float or schedule. Of variables with scale 1.
        lr_scales: dict from a variable's path to its scale; 1 for paths that are not in it.
        weight_decay: float. A step takes `learning_rate * scale * weight_decay` of the variable.
        undecayed: paths of variables that are not decayed.
        **kwargs: of `keras.optimizers.Adam`.

    Example:
    ```python
    import d2v_tf
    import keras
    import numpy as np

    classifier = d2v_tf.Data2VecImageClassifier(d2v_tf.load_backbone("runs/vision"), num_classes=10)
    scales = d2v_tf.lr_scales(classifier, layer_decay=0.65)
    classifier.compile(
        d2v_tf.LayerwiseAdamW(4e-3, lr_scales=scales, weight_decay=0.05),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    images = np.random.normal(size=(20, *classifier.backbone.image_shape))  # as a converter's
    classifier.fit(images, np.arange(20) % 10, batch_size=4, epochs=2, shuffle=False)
    ```
    """

    def __init__(
        self,
        learning_rate=0.001,
        lr_scales=None,
        weight_decay=0.0,
        undecayed=(),
        name="optimizer",
        **kwargs,
    ):
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.lr_scales = dict(lr_scales or {})
        self.decay = weight_decay
        self.undecayed = set(undecayed)

    def build(self, variables):
        super().build(variables)
        # On TensorFlow an update is told the variable below Keras' own, which has no path.
        self._paths = [variable.path for variable in variables]

    def update_step(self, gradient, variable, learning_rate):
        path = self._paths[self._get_variable_index(variable)]
        rate = ops.cast(learning_rate, variable.dtype) * self.lr_scales.get(path, 1.0)
        if self.decay and path not in self.undecayed:
            self.assign_sub(variable, variable * (rate * self.decay))
        super().update_step(gradient, variable, rate)

    def get_config(self):
        config = super().get_config()
        return {
            **config,
            "lr_scales": self.lr_scales,
            "weight_decay": self.decay,
            "undecayed": sorted(self.undecayed),
        }


def lr_scales(task, layer_decay=1.0, backbone_scale=1.0):
    """Learning-rate scales that fall from the head down to the frontend.

    The head has 1; block i of L, counted from 0, `backbone_scale * layer_decay ** (L - i)`; what
    comes before the blocks `backbone_scale * layer_decay ** (L + 1)`; a norm after them and a
    bias that they share `backbone_scale`. As in BEiT (arXiv 2106.08254).

    Args:
        task: a model with a `backbone`.
        layer_decay: float. What a layer's rate is multiplied by for the layer below.
        backbone_scale: float. What all rates of the backbone are multiplied by.

    Returns:
        dict from the path of each of the task's variables to its scale.
    """
    backbone = task.backbone
    num_blocks = backbone.num_layers
    blocks = {
        id(variable): index
        for index, block in enumerate(backbone.encoder.blocks)
        for variable in block.variables
    }
    on_top = [layer for layer in (backbone.final_norm, backbone.encoder.shared_bias) if layer]
    on_top = {id(variable) for layer in on_top for variable in layer.variables}
    inside = set(map(id, backbone.variables))

    def scale(variable):
        if id(variable) not in inside:
            return 1.0
        if id(variable) in on_top:
            return backbone_scale
        return backbone_scale * layer_decay ** (num_blocks - blocks.get(id(variable), -1))

    return {variable.path: scale(variable) for variable in task.variables}
