"""What is known of a format that data2vec was published in: a table of keys, what shapes say."""

import dataclasses
import re
from collections.abc import Callable

from d2v_tf.interop.key_map import WeightsError


@dataclasses.dataclass(frozen=True)
class OriginalModel:
    """All that is known of one format.

    Attributes:
        kind: str. What a file of it is called.
        backbone_class: class of ours.
        mark: str. A key that every such file has and no other.
        keys: the key map, see `d2v_tf.interop.key_map`.
        architecture: (`Shapes`, dict of the configuration's fields) -> (dict of our arguments,
            dict of ints for the layouts, tuple of str: what was assumed). Raises `WeightsError`.
        optional: our variables that a file need not hold.
        constants: ends of keys that hold no weights.
        teacher: (prefix, key of a block's tensor) -> key of the teacher's.
        heads: tuple of the regression heads that a file may hold, each a tuple of its linear
            layers' keys without `.weight`.
    """

    kind: str
    backbone_class: type
    mark: str
    keys: tuple
    architecture: Callable
    optional: tuple
    constants: tuple
    teacher: Callable
    heads: tuple


class Shapes:
    """Shapes of the tensors of one model in a file.

    Args:
        tensors: `StateDict`.
        prefix: str. What the model's keys begin with.
    """

    def __init__(self, tensors, prefix):
        self.name = tensors.name
        self._prefix = prefix
        self._shapes = {
            key.removeprefix(prefix): tensors.shape(key)
            for key in tensors.keys()
            if key.startswith(prefix)
        }

    def __contains__(self, key):
        return key in self._shapes

    def shape(self, key, rank):
        """A tensor's shape, a tuple of `rank` ints above 0.

        Raises:
            WeightsError: where there is none of this rank.
        """
        shape = self._shapes.get(key)
        if shape is None:
            raise WeightsError(f"{self.name}: it lacks {self._prefix}{key}.")
        if len(shape) != rank or 0 in shape:
            raise WeightsError(
                f"{self.name}: {self._prefix}{key} is {shape}; {rank} axes are needed."
            )
        return shape

    def count(self, start):
        """Entries of a list, by the numbers behind `start`.

        Raises:
            WeightsError: where there is none, or one is missing.
        """
        pattern = re.compile(re.escape(start) + r"(\d{1,4})\.")
        numbers = {int(found[1]) for key in self._shapes if (found := pattern.match(key))}
        missing = set(range(max(numbers, default=0) + 1)) - numbers
        if missing:
            raise WeightsError(f"{self.name}: it lacks {self._prefix}{start}{min(missing)}.")
        return len(numbers)
