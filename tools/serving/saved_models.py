"""SavedModels in folders of versions, and what they are asked."""

import os

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from serving.errors import ServingError, invalid

PREDICT = tf.saved_model.PREDICT_METHOD_NAME
INIT = "__saved_model_init_op"  # a signature that is none


def versions_in(folder):
    """The versions that a server finds: dict of int, ascending, to the name of its folder.

    Raises:
        FileNotFoundError: where there is no such folder.
    """
    return {
        int(name): name
        for name in sorted(os.listdir(folder), key=lambda name: (len(name), name))
        if name.isdecimal() and os.path.isdir(os.path.join(folder, name))
    }


def read_signatures(folder):
    """The signatures of a version, without loading it: dict of name to `SignatureDef`.

    Raises:
        ValueError: where there is no SavedModel to be served.
    """
    path = os.path.join(folder, tf.saved_model.SAVED_MODEL_FILENAME_PB)
    content = saved_model_pb2.SavedModel()
    try:
        with open(path, "rb") as file:
            content.ParseFromString(file.read())
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}).") from None
    except Exception as error:  # protobuf's own, which differs between its versions
        raise ValueError(f"{path} is no SavedModel ({error}).") from None
    for graph in content.meta_graphs:
        if set(graph.meta_info_def.tags) == {tf.saved_model.SERVING}:
            return {n: s for n, s in graph.signature_def.items() if n != INIT}
    tags = [sorted(graph.meta_info_def.tags) for graph in content.meta_graphs]
    raise ValueError(f"{path} has no graph of the tags ['serve'], only of {tags}.")


def register_text_operations():
    """Makes TensorFlow know what models of texts use. Returns whether tensorflow-text is there."""
    try:
        import tensorflow_text  # noqa: F401
    except ImportError:
        return False
    return True


class LoadedVersion:
    """One version of a model, in memory.

    Args:
        folder: str. The version's.
    """

    def __init__(self, folder):
        self.signatures = read_signatures(folder)
        self._loaded = tf.saved_model.load(folder, tags=[tf.saved_model.SERVING])

    def signature(self, name):
        """The `SignatureDef` of a name; `""` is `serving_default`.

        Raises:
            ServingError: where there is none.
        """
        name = name or tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY
        if name not in self.signatures:
            raise ServingError(
                "FAILED_PRECONDITION",
                f'Serving signature key "{name}" not found. There are: '
                f"{', '.join(sorted(self.signatures))}",
            )
        return self.signatures[name]

    def run(self, name, inputs, output_filter=()):
        """Answers a request.

        Args:
            name: str. Of the signature.
            inputs: dict of name to NumPy array or tensor.
            output_filter: names of the outputs that are wanted, all where there are none.

        Returns:
            dict of name to NumPy array.

        Raises:
            ServingError: says what is wrong with the request.
        """
        signature = self.signature(name)
        check_inputs(signature, inputs)
        unknown = set(output_filter) - set(signature.outputs)
        if unknown:
            raise invalid(
                f"output tensor alias not found in signature: {', '.join(sorted(unknown))}. "
                f"Outputs expected to be in the set {{{','.join(sorted(signature.outputs))}}}."
            )
        function = self._loaded.signatures[name or tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY]
        try:
            tensors = {
                key: tf.constant(value, tf.as_dtype(signature.inputs[key].dtype))
                for key, value in inputs.items()
            }
        except (ValueError, TypeError):
            raise invalid("The inputs are no arrays of the signature's types.") from None
        try:
            outputs = function(**tensors)
        except tf.errors.OpError as error:
            raise ServingError.of(error) from None
        except UnicodeDecodeError:
            raise invalid("The model refused the request with bytes that are no text.") from None
        wanted = output_filter or sorted(signature.outputs)
        return {key: outputs[key].numpy() for key in wanted}


def check_inputs(signature, inputs):
    """Refuses inputs that are not those of a signature, by name, type or shape.

    Args:
        signature: `SignatureDef`.
        inputs: dict of name to NumPy array.

    Raises:
        ServingError: names what does not fit.
    """
    missing, extra = set(signature.inputs) - set(inputs), set(inputs) - set(signature.inputs)
    if missing or extra:
        raise invalid(
            f"input size does not match signature: {len(inputs)}!={len(signature.inputs)}. Sent "
            f"extra: {{{','.join(sorted(extra))}}}. Missing but required: "
            f"{{{','.join(sorted(missing))}}}."
        )
    for name, info in signature.inputs.items():
        wanted, got = tf.as_dtype(info.dtype), inputs[name].dtype
        is_text = wanted == tf.string
        if is_text != (got.kind in "OSU") or (not is_text and got != wanted.as_numpy_dtype):
            raise invalid(f"{name} must be of type {wanted.name}. Received: {got}")
        shape = tf.TensorShape(info.tensor_shape)
        if not shape.is_compatible_with(inputs[name].shape):
            raise invalid(f"{name} must be of shape {shape}. Received: {inputs[name].shape}")


def _last_written(folder):
    """When anything in a folder was written last, and how many files there are."""
    files = [os.path.join(root, name) for root, _, names in os.walk(folder) for name in names]
    return max((os.stat(file).st_mtime_ns for file in files), default=0), len(files)


class Model:
    """A folder of versions of which the newest is served, as TensorFlow Serving does it.

    Args:
        name: str.
        folder: str. Of the versions.
    """

    def __init__(self, name, folder):
        self.name = name
        self.folder = folder
        self.states = {}  # version -> (state, error message)
        self._served = None, None  # version and what is loaded: one value, read by other threads
        self._failed = {}  # version -> when its folder was written that did not load

    def refresh(self):
        """Loads the highest version if it is another one, and lets go of the one before.

        A version that does not load is tried again when something of it has been written since, as
        while it is copied.

        Returns:
            bool. Whether something changed.
        """
        try:
            found = versions_in(self.folder)
            before = self._served[0]
            version = max(found, default=before)
            if version == before:
                return False
            folder = os.path.join(self.folder, found[version])
            written = _last_written(folder)
        except OSError:  # taken away meanwhile
            return False
        if self._failed.get(version) == written:
            return False
        self.states[version] = ("LOADING", "")
        try:
            loaded = LoadedVersion(folder)
        except Exception as error:  # whatever a folder holds, the server goes on
            self._failed[version] = written
            self.states[version] = ("END", str(error) or type(error).__name__)
            return True
        self._served = version, loaded
        self.states[version] = ("AVAILABLE", "")
        if before is not None:
            self.states[before] = ("END", "")
        return True

    def version(self, number=None):
        """(int, `LoadedVersion`) of a version, or of the one that is served.

        Raises:
            ServingError: where it is not served.
        """
        current, loaded = self._served
        if loaded is None or number not in (None, current):
            which = f"Specific({self.name}, {number})" if number else f"Latest({self.name})"
            raise ServingError("NOT_FOUND", f"Servable not found for request: {which}")
        return current, loaded

    def status(self, number=None):
        """list of (version, state, error message), the newest first.

        Raises:
            ServingError: for a version that there is not.
        """
        rows = [(v, *self.states[v]) for v in sorted(self.states, reverse=True)]
        rows = [row for row in rows if number in (None, row[0])]
        if not rows:
            what = f"version {number} of model" if number else "any versions of model"
            raise ServingError("NOT_FOUND", f"Could not find {what} {self.name}")
        return rows
