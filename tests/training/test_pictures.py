"""Pictures that cannot be made stop no run."""

import numpy as np

from d2v_tf.config import load_recipe
from d2v_tf.training.logs import RunLog
from d2v_tf.training.pictures import Pictures


class Unreadable:
    """Data whose examples are gone, or that give a model of no numbers something to fail on."""

    def __init__(self, error):
        self.error = error

    def first_examples(self, count):
        raise self.error


def test_a_failure_is_said_once_and_is_the_end_of_it(tmp_path):
    recipe = load_recipe("configs/pretrain/vision_tiny.yaml", ["steps=4"], "vision")
    for error in (OSError("gone"), np.linalg.LinAlgError("SVD did not converge"), ValueError("")):
        said = []
        log = RunLog(str(tmp_path), 0, 4, 1, dict, quiet=True)
        pictures = Pictures(log, recipe, Unreadable(error), 1, said.append)
        pictures.on_train_begin()
        pictures.on_train_batch_end(0)
        log.close()
        (line,) = said
        assert line.startswith(f"TensorBoard gets no more pictures ({type(error).__name__}: ")
    assert not log.failed  # numbers go on being written
