"""Trains the head alone at first: a Keras callback."""

import keras


class FreezeBackbone(keras.callbacks.Callback):
    """Keeps the backbone as it is for the first updates, in which only the head is trained.

    So does wav2vec 2.0 (arXiv 2006.11477): the gradients of a random head would spoil what the
    backbone has learned. Variables that are not trained anyway, such as those of a layer whose
    `trainable` is `False`, stay so when the others are thawed.

    Args:
        steps: int. Updates for which the backbone is frozen.
        start: int. Updates made before, where a run goes on. Defaults to 0.

    Example:
    ```python
    classifier.fit(dataset, epochs=5, callbacks=[d2v_tf.FreezeBackbone(500)])
    ```
    """

    def __init__(self, steps, start=0):
        super().__init__()
        self.steps, self.step = steps, start
        self._frozen = []

    def on_train_begin(self, logs=None):
        self._thaw()  # after a fit that was interrupted
        optimizer = self.model.optimizer
        if not optimizer.built:  # of all that it ever trains: Keras refuses variables that it lacks
            optimizer.build(self.model.trainable_variables)
        if self.step < self.steps:
            self._frozen = self.model.backbone.trainable_variables
            self._set_trainable(False)

    def on_epoch_begin(self, epoch, logs=None):
        self._before = self.step

    def on_train_batch_end(self, batch, logs=None):
        self.step = self._before + batch + 1
        if self.step >= self.steps:
            self._thaw()

    def on_train_end(self, logs=None):
        self._thaw()

    def _thaw(self):
        if self._frozen:
            self._set_trainable(True)
            self._frozen = []

    def _set_trainable(self, value):
        for variable in self._frozen:
            variable.trainable = value
        self.model.make_train_function(force=True)  # the one before is of the other variables
