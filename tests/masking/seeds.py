"""Seeds of masks."""

import numpy as np


def make_seeds(number, seed=0):
    return np.random.default_rng(seed).integers(0, 2**31 - 1, (number, 2), dtype="int32")
