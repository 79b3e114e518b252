"""A model and what it can be asked, as signatures; and these as a version that a server loads."""

import contextlib
import os
import shutil
import tempfile

import tensorflow as tf

from d2v_tf.data.reading import first_line
from d2v_tf.exporting.outputs import answers, features
from d2v_tf.exporting.requests import ExportError

DEFAULT = tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY
FEATURES = "features"
WARMUP_FILE = os.path.join("assets.extra", "tf_serving_warmup_requests")


def signatures_of(model, requests):
    """Traces a model once, and each way to ask it once.

    Args:
        model: a `Data2VecBackbone`, or a task on one.
        requests: list of `Requests`, the usual one first.

    Returns:
        dict of a signature's name to (`tf.function`, its `Requests`). A task answers
        `serving_default` and other requests' names, its backbone `features` and `features_NAME`. A
        backbone has the same names, and both kinds are its features.
    """
    backbone = getattr(model, "backbone", model)
    of_backbone = _traced(lambda inputs: features(backbone, inputs), backbone)
    of_task = of_backbone
    if backbone is not model:
        of_task = _traced(lambda inputs: answers(model, inputs), backbone)
    signatures = {}
    for request in requests:
        signatures[request.name or DEFAULT] = _signature(request, of_task), request
        name = f"{FEATURES}_{request.name}" if request.name else FEATURES
        signatures[name] = _signature(request, of_backbone), request
    return signatures


def _traced(function, backbone):
    """The function as a graph that all signatures share."""
    specs = tf.nest.map_structure(
        lambda tensor: tf.TensorSpec(tensor.shape, tensor.dtype), backbone.input
    )
    return tf.function(function, input_signature=[specs], autograph=False)


def _signature(request, function):
    names = list(request.specs)

    def serve(*tensors):
        some = tf.debugging.assert_positive(
            tf.shape(tensors[0])[0], "A request must have at least one example."
        )
        with tf.control_dependencies([some]):
            tensors = [tf.identity(tensor) for tensor in tensors]
        return function(request.to_inputs(**dict(zip(names, tensors, strict=True))))

    specs = [tf.TensorSpec(s.shape, s.dtype, name) for name, s in request.specs.items()]
    return tf.function(serve, input_signature=specs, autograph=False)


def check_version(folder, version=None):
    """Refuses a version that cannot be written, before what is to be in it is made.

    Args:
        folder: str. Of the model; need not exist.
        version: optional int. As for `write_version`.

    Returns:
        int. The version.

    Raises:
        ExportError: where the version is there already, or the folder cannot be written.
    """
    check_writable(folder)
    there = []
    if os.path.isdir(folder):
        there = [int(name) for name in os.listdir(folder) if name.isdecimal()]
    if version in there:
        raise ExportError(
            f"--to: {os.path.join(folder, str(version))} exists. Servers do not read a version "
            "twice: give another one."
        )
    return max(there, default=0) + 1 if version is None else version


def check_writable(folder):
    """Refuses a folder in which nothing can be written, or which cannot be made.

    Raises:
        ExportError: names what is in the way.
    """
    place = os.path.abspath(folder)
    while not os.path.lexists(place):
        place = os.path.dirname(place)
    if not os.path.isdir(place):
        raise ExportError(f"--to: {folder} cannot be written ({place} is no folder).")
    if not os.access(place, os.W_OK | os.X_OK):
        raise ExportError(f"--to: {folder} cannot be written ({place}: permission denied).")


@contextlib.contextmanager
def writing(path):
    """Around what writes: whatever the system refuses is an `ExportError` that names the path."""
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise ExportError(f"--to: {path} cannot be written ({reason}).") from None


def write_version(folder, version, signatures, labels, write_more=None):
    """Writes `folder/version`, which appears when it is complete: servers look for it all the time.

    Args:
        folder: str. Of the model; made if it does not exist.
        version: optional int. One more than the highest that is there where it is not given.
        signatures: what `signatures_of` gives.
        labels: optional sequence of str, for `assets/labels.txt`.
        write_more: optional function of the folder of the version, called before it appears.

    Returns:
        str, the path of the version.

    Raises:
        ExportError: where the version is there already, or the folder cannot be written.
    """
    with writing(folder):
        version = check_version(folder, version)
        os.makedirs(folder, exist_ok=True)
        target = os.path.join(folder, str(version))
        # Not a number, so that no server takes it for a version.
        unfinished = tempfile.mkdtemp(prefix=f"unfinished-{version}-", dir=folder)
        try:
            os.chmod(unfinished, 0o755)  # a server is another user
            _save(signatures, labels, unfinished)
            if write_more is not None:
                write_more(unfinished)
            os.rename(unfinished, target)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return target


def _save(signatures, labels, folder):
    module = tf.Module()
    concrete = {
        name: function.get_concrete_function() for name, (function, _) in signatures.items()
    }
    variables = {id(v): v for function in concrete.values() for v in function.graph.variables}
    module.variables_used = list(variables.values())
    module.tables = list({id(r): r for _, q in signatures.values() for r in q.resources}.values())
    assets = os.path.join(folder, "labels.txt")
    if labels is not None:
        broken = [label for label in labels if "\n" in label]
        if broken:
            raise ExportError(f"A class' name cannot be a line of labels.txt: {broken[0]!r}")
        with open(assets, "w", encoding="utf-8", newline="\n") as file:
            file.writelines(f"{label}\n" for label in labels)
        module.labels = tf.saved_model.Asset(assets)
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    tf.saved_model.save(module, folder, signatures=concrete, options=options)
    if labels is not None:
        os.remove(assets)
