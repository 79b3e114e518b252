"""What a configuration inside a file says, read off objects whose classes nobody has."""

import ast

from d2v_tf.interop.huggingface_config import is_like
from d2v_tf.interop.key_map import WeightsError
from d2v_tf.interop.pickled import Inert


def fields_of(node):
    """The named parts of a configuration.

    Args:
        node: a dict, or an `Inert` that was an `argparse.Namespace`, a dataclass or OmegaConf's
            `DictConfig`; or anything else.

    Returns:
        dict; empty for anything else.
    """
    if isinstance(node, Inert):
        node = node.state
        if isinstance(node, dict) and "_content" in node and "_metadata" in node:
            node = node["_content"]  # OmegaConf's
    return node if isinstance(node, dict) else {}


def value_of(node):
    """A number, a text or `None`, where such a one stands as an object: OmegaConf's, or an enum."""
    if isinstance(node, Inert) and isinstance(node.state, dict) and "_val" in node.state:
        node = node.state["_val"]
    if isinstance(node, Inert) and node.state is None and len(node.arguments) == 1:
        node = node.arguments[0]
    return node


def model_fields(content):
    """The configuration of the model in a file of fairseq or BEiT.

    A model that was fine-tuned holds that of the pre-trained one, whose architecture it has.

    Args:
        content: dict. What the file holds.

    Returns:
        dict of fields, as values where they are; empty where there is no configuration.
    """
    fields = fields_of(fields_of(content.get("cfg")).get("model"))
    fields = fields or fields_of(content.get("args"))
    pretrained = fields_of(fields.get("w2v_args"))
    if pretrained:
        fields = fields_of(pretrained.get("model")) or pretrained
    return {name: value_of(node) for name, node in fields.items()}


def read_fields(fields, name, visible, rates, required):
    """Checks a configuration against the tensors and takes from it what they do not show.

    Args:
        fields: dict. The configuration; fields that it lacks are not missed.
        name: str. The file, for messages.
        visible: dict of their field to what the tensors show.
        rates: dict of their field to (our argument, a value like those it may have).
        required: dict of their field to the values that this package's backbones have.

    Returns:
        dict of our arguments.

    Raises:
        WeightsError: names every field that does not fit.
    """
    problems = [
        f"{field} is {fields[field]!r}, which is not supported; only "
        f"{' or '.join(map(repr, values))} is"
        for field, values in required.items()
        if field in fields and fields[field] not in values
    ]
    problems += [
        f"{field} is {fields[field]!r} and its tensors show {shown!r}"
        for field, shown in visible.items()
        if field in fields and fields[field] != shown
    ]
    problems += [
        f"{field} is {fields[field]!r}; a value like {like!r} is needed"
        for field, (_, like) in rates.items()
        if field in fields and not is_like(fields[field], like)
    ]
    if problems:
        raise WeightsError(f"{name}: in its configuration, {'; '.join(problems)}.")
    return {ours: fields[field] for field, (ours, _) in rates.items() if field in fields}


def read_num_heads(fields, field, hidden_dim, name):
    """Attention heads, which no tensor shows.

    Returns:
        (int, tuple of str: what was assumed).

    Raises:
        WeightsError: where the file does not say and none can be assumed.
    """
    if field in fields:
        heads = fields[field]
        if not is_like(heads, 12) or heads < 1 or hidden_dim % heads:
            raise WeightsError(
                f"{name}: in its configuration, {field} is {fields[field]!r}; a divisor of "
                f"{hidden_dim}, the width, is needed."
            )
        return fields[field], ()
    if hidden_dim % 64:
        raise WeightsError(
            f"{name}: it does not say how many attention heads it has, and a width of {hidden_dim} "
            "is no multiple of 64, which a head has in published models."
        )
    heads = hidden_dim // 64
    return heads, (f"{heads} attention heads, as the file names none and published heads are 64",)


def read_layers(text):
    """`"[(512, 10, 5)] + [(512, 3, 2)] * 4"` as a list of tuples of int, without executing it.

    Raises:
        ValueError: for anything that is no such list.
    """

    def value(node):
        if isinstance(node, ast.Expression):
            return value(node.body)
        if isinstance(node, ast.Constant) and type(node.value) is int and 0 < node.value < 10**6:
            return node.value
        if isinstance(node, ast.Tuple):
            return tuple(map(value, node.elts))
        if isinstance(node, ast.List):
            return list(map(value, node.elts))
        if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Mult)):
            left, right = value(node.left), value(node.right)
            if isinstance(node.op, ast.Add) and isinstance(left, list) and isinstance(right, list):
                return left + right
            if isinstance(left, list) and isinstance(right, int) and len(left) * right < 1000:
                return left * right
        raise ValueError(f"{text!r} is no list of convolutions")

    try:
        layers = value(ast.parse(text, mode="eval"))
    except (SyntaxError, TypeError, RecursionError, MemoryError):
        raise ValueError(f"{text!r} is no list of convolutions") from None
    if not isinstance(layers, list) or not all(
        isinstance(layer, tuple) and len(layer) == 3 and all(isinstance(n, int) for n in layer)
        for layer in layers
    ):
        raise ValueError(f"{text!r} is no list of convolutions")
    return layers
