"""Tensors in JSON as TensorFlow Serving's REST interface has them, both ways.

After `tensorflow_serving/g3doc/api_rest.md` of tensorflow/serving.
"""

import base64
import binascii

import numpy as np
import tensorflow as tf

from serving.errors import invalid


def read_request(body, signature):
    """The inputs of a request.

    Args:
        body: what its JSON says.
        signature: `SignatureDef` that it is for.

    Returns:
        (dict of name to NumPy array, bool: whether they came as rows).

    Raises:
        ServingError: says what is wrong.
    """
    if ("instances" in body) == ("inputs" in body):
        raise invalid('Request must have exactly one of "instances" (rows) and "inputs" (columns).')
    is_rows = "instances" in body
    columns = (
        _columns_of_rows(body["instances"], signature)
        if is_rows
        else _named(body["inputs"], signature)
    )
    return {name: _array(name, value, signature) for name, value in columns.items()}, is_rows


def write_response(outputs, is_rows):
    """The answer to a request, as JSON.

    Args:
        outputs: dict of name to NumPy array.
        is_rows: bool.

    Returns:
        dict, of `predictions` or `outputs`.

    Raises:
        ServingError: for rows where the outputs have not the same number.
    """
    values = {name: _plain(name, array) for name, array in outputs.items()}
    if not is_rows:
        return {"outputs": next(iter(values.values())) if len(values) == 1 else values}
    if any(array.ndim == 0 for array in outputs.values()):
        raise invalid("An output has no batch dimension: ask in the columnar format.")
    if len({len(array) for array in outputs.values()}) != 1:
        raise invalid("The outputs have different batch sizes: ask in the columnar format.")
    if len(values) == 1:
        return {"predictions": next(iter(values.values()))}
    rows = zip(*values.values(), strict=True)
    return {"predictions": [dict(zip(values, row, strict=True)) for row in rows]}


def _columns_of_rows(rows, signature):
    if not isinstance(rows, list) or not rows:
        raise invalid('"instances" must be a list of at least one value.')
    if not _is_object(rows[0]):
        return {_only_input(signature): rows}
    names = set(signature.inputs)
    for i, row in enumerate(rows):
        if not _is_object(row) or set(row) != names:
            raise invalid(
                f"Failed to process element: {i} of 'instances' list. It must be an object with "
                f"the keys {', '.join(sorted(names))}."
            )
    return {name: [row[name] for row in rows] for name in signature.inputs}


def _named(value, signature):
    return value if _is_object(value) else {_only_input(signature): value}


def _is_object(value):
    """Whether it names inputs, and is not a value in base64."""
    return isinstance(value, dict) and set(value) != {"b64"}


def _only_input(signature):
    if len(signature.inputs) != 1:
        raise invalid(
            "Inputs must be named, as the signature has several: "
            f"{', '.join(sorted(signature.inputs))}."
        )
    return next(iter(signature.inputs))


def _array(name, value, signature):
    if name not in signature.inputs:
        known = ", ".join(sorted(signature.inputs))
        raise invalid(f"{name} is no input of the signature, which has {known}.")
    dtype = tf.as_dtype(signature.inputs[name].dtype)
    if dtype == tf.string:
        array = np.array(_strings(name, value), object)
        if not all(isinstance(item, bytes) for item in array.ravel()):
            raise invalid(f"{name}: its lists are not all equally long.")
        return array
    try:
        array = np.array(value)
    except ValueError:
        raise invalid(f"{name}: its lists are not all equally long.") from None
    # An empty list has no type of its own.
    kinds = "b" if dtype.is_bool else "iu" if dtype.is_integer else "iuf"
    if array.size and array.dtype.kind not in kinds:
        raise invalid(f"{name} must be of type {dtype.name}. Received: {_short(value)}")
    with np.errstate(over="ignore"):
        converted = array.astype(dtype.as_numpy_dtype)
    if dtype.is_integer and not np.array_equal(converted, array):
        raise invalid(f"{name} has numbers that do not fit into {dtype.name}.")
    return converted


def _strings(name, value):
    if isinstance(value, list):
        return [_strings(name, v) for v in value]
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError:
            raise invalid(f"{name} has half of a surrogate pair, which is no text.") from None
    if isinstance(value, dict) and set(value) == {"b64"} and isinstance(value["b64"], str):
        try:
            encoded = value["b64"].rstrip("=")
            return base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
        except (binascii.Error, ValueError):
            raise invalid(f"{name}: what stands under b64 is no base64.") from None
    raise invalid(f'{name} must be strings or {{"b64": ...}}. Received: {_short(value)}')


def _short(value):
    text = repr(value)
    return text if len(text) < 60 else f"{text[:60]}..."


def _plain(name, array):
    """What `json` writes of an array; strings are text, or base64 where the name says bytes."""
    if array.dtype.kind in "fV" and array.dtype.itemsize < 8:
        if array.ndim > 1:  # by rows: as text a number takes 128 bytes
            return [_plain(name, row) for row in array]
        # The fewest digits that mean the same number: 0.1, and not 0.10000000149011612.
        return array.astype("float32").astype(str).astype("float64").tolist()
    if array.dtype.kind not in "OSU":
        return array.tolist()
    if name.endswith("_bytes"):
        convert = lambda raw: {"b64": base64.b64encode(raw).decode()}  # noqa: E731
    else:
        convert = bytes.decode
    try:
        return _map(convert, array.tolist())
    except UnicodeDecodeError:
        raise invalid(
            f"{name} has bytes that are no text, and no name that ends in _bytes."
        ) from None


def _map(function, value):
    return [_map(function, v) for v in value] if isinstance(value, list) else function(value)
