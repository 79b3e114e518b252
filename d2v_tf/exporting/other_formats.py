"""Models without what makes their input, as the formats that Keras writes: LiteRT and ONNX."""

import os
import tempfile
import warnings

import keras

from d2v_tf.backbones.vision import Data2VecVisionBackbone
from d2v_tf.data.reading import first_line
from d2v_tf.exporting.requests import ExportError
from d2v_tf.exporting.saved_model import check_writable, writing
from d2v_tf.exporting.source import load_model

# Format: (what a file's name ends with, packages that write it).
FORMATS = {"litert": (".tflite", ()), "onnx": (".onnx", ("tf2onnx", "onnx"))}


def export_file(model, path, file_format, precision=None, say=print):
    """Writes a backbone or a task for another runtime.

    Its input is what `keras.Model` takes (images normalized, waveforms normalized with a mask,
    token ids with a mask), since these formats have no operations that read files and strings; its
    output is the last hidden states, or logits. Batch, samples and tokens are free. LiteRT takes
    vision models only: for the others the converter wants TensorFlow's own operations
    (`FlexStridedSlice`, where a length is free), which LiteRT's package does not have.

    Args:
        model: str, what `load_backbone` or `load_task` reads; or a backbone or a task, that
            computes in float32.
        path: str. A new file, which must end as its format does; it appears when it is complete.
        file_format: `"litert"` or `"onnx"`.
        precision: optional str, which can only be `"float32"`.
        say: callable(str), called with a line on what was read.

    Raises:
        ExportError, WeightsError: name what does not fit, or is not installed.
    """
    path = os.fspath(path)
    check_file(path, file_format)
    if precision not in (None, "float32"):
        raise ExportError(f"--format={file_format} writes float32 only: leave out --precision.")
    if isinstance(model, str | os.PathLike):
        model = load_model(os.fspath(model), say=say)
    backbone = getattr(model, "backbone", model)
    if backbone.compute_dtype != "float32":
        raise ExportError(
            f"--format={file_format} writes float32 only, and the model computes in "
            f"{backbone.compute_dtype}."
        )
    if file_format == "litert" and not isinstance(backbone, Data2VecVisionBackbone):
        raise ExportError(
            "--format=litert is written of a vision model only: of others its runtime lacks "
            "operations. Use --format=onnx."
        )
    folder = os.path.dirname(os.path.abspath(path))
    with writing(path):
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="unfinished-", dir=folder) as unfinished:
            written = os.path.join(unfinished, os.path.basename(path))
            _convert(model, written, file_format)
            os.rename(written, path)


def check_file(path, file_format):
    """Refuses a file that cannot be written, before a model is read for it.

    Raises:
        ExportError: for another ending, a file that is there, a folder in which nothing can be
            written, and a package that is not installed.
    """
    ending, packages = FORMATS[file_format]
    if not path.endswith(ending):
        raise ExportError(f"--to: a file of {file_format} must end in {ending}. Received: {path}")
    if os.path.lexists(path):
        raise ExportError(f"--to: {path} exists. Give a new file.")
    check_writable(os.path.dirname(os.path.abspath(path)))
    for package in packages:
        try:
            __import__(package)
        except ImportError:
            raise ExportError(
                f"--format={file_format} needs {package}: pip install 'd2v_tf[{file_format}]'"
            ) from None


def _convert(model, path, file_format):
    if file_format == "onnx":
        _teach_erfc()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the converters about themselves
        try:
            # Not the task's own, whose preprocessor these formats cannot hold.
            keras.Model.export(
                model, path, format=file_format, input_signature=[_signature(model)], verbose=False
            )
        except OSError:
            raise
        except Exception as error:  # whatever a converter of another package stumbles over
            raise ExportError(
                f"--format={file_format}: the converter failed ({type(error).__name__}: "
                f"{first_line(error)}). --format=saved_model does not need it."
            ) from error


def _signature(model):
    """Specs of the inputs, none of them optional."""

    def spec(tensor):
        return keras.InputSpec(shape=tensor.shape, dtype=tensor.dtype, name=tensor.name)

    inputs = model.input
    if isinstance(inputs, dict):
        return {name: spec(tensor) for name, tensor in inputs.items()}
    return spec(inputs)


def _teach_erfc():
    """Says to tf2onnx what TensorFlow's `Erfc` is, which the exact GELU has: 1 less `Erf`."""
    import numpy as np
    from tf2onnx.handler import tf_op

    @tf_op("Erfc")
    class Erfc:
        @classmethod
        def version_9(cls, graph, node, **_):
            dtype, shape = graph.get_dtype(node.output[0]), graph.get_shape(node.output[0])
            inputs, outputs = node.input, node.output
            graph.remove_node(node.name)
            erf = graph.make_node("Erf", inputs, dtypes=[dtype], shapes=[shape])
            one = graph.make_const(f"{node.name}_one", np.array(1.0, "float32"))
            graph.make_node(
                "Sub",
                [one.output[0], erf.output[0]],
                outputs=outputs,
                dtypes=[dtype],
                shapes=[shape],
            )
