"""What stands beside the weights: image and audio settings and tokenizers, both ways."""

import json
import os
import warnings

import numpy as np

from d2v_tf.backbones.preprocessing import Data2VecAudioConverter, Data2VecImageConverter
from d2v_tf.data.tokenization import (
    FILES,
    Data2VecTextTokenizer,
    TextTokenizer,
    load_tokenizer,
)
from d2v_tf.interop.huggingface_config import is_like
from d2v_tf.interop.json_files import find_folder, read_json
from d2v_tf.interop.key_map import WeightsError

# Numbers of PIL's filters.
INTERPOLATIONS = {0: "nearest", 1: "lanczos3", 2: "bilinear", 3: "bicubic"}
# Fields of `BeitImageProcessor` with its defaults.
IMAGE_FIELDS = {
    "do_resize": True,
    "size": None,  # 224 x 224; an int, or a dict
    "resample": 3,
    "do_center_crop": False,
    "crop_size": None,  # 224 x 224
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": None,  # 0.5 each; a float or one a channel
    "image_std": None,  # 0.5 each
}
# How a call may be made, and labels for segmentation.
IMAGE_IGNORED = frozenset(
    "image_processor_type feature_extractor_type processor_class do_reduce_labels reduce_labels "
    "default_to_square do_convert_rgb data_format input_data_format return_tensors device "
    "disable_grouping use_fast".split()
)
# Fields of `Wav2Vec2FeatureExtractor` with the values that ours has.
AUDIO_REQUIRED = {
    "do_normalize": True,
    "feature_size": 1,
    "padding_side": "right",
    "padding_value": 0.0,
    "sampling_rate": 16000,
}
# Fields of a tokenizer's settings that change its tokens, with the values that ours has.
TOKENIZER_REQUIRED = {"add_prefix_space": (False, None), "do_lower_case": (False, None)}
# A mask is always made here: with one example, it changes nothing.
AUDIO_IGNORED = frozenset({"feature_extractor_type", "processor_class", "return_attention_mask"})
PRESET_FILES = {
    "image_converter.json": Data2VecImageConverter,
    "audio_converter.json": Data2VecAudioConverter,
    "tokenizer.json": Data2VecTextTokenizer,
}


def load_preprocessing(path, image_shape=None):
    """What turns images, waveforms or texts into the input of the backbone in the same folder.

    Args:
        path: str. What `d2v_tf.load_backbone` takes.
        image_shape: optional (int, int, int). As given to `load_backbone`.

    Returns:
        A `Data2VecImageConverter`, `Data2VecAudioConverter` or `Data2VecTextTokenizer`; `None`
        where the folder holds no such settings, as a file of fairseq or BEiT never does.

    Raises:
        WeightsError: names the setting that is not supported.
        DataError: for a tokenizer that is not RoBERTa's kind.
    """
    if os.path.isfile(path):
        return None
    folder = find_folder(path)
    config = read_json(os.path.join(folder, "config.json"))
    if "model_type" not in config:
        layer = _load_from_preset(folder)
    elif config["model_type"] == "data2vec-text":
        layer = _load_tokenizer(folder, config)
    elif config["model_type"] == "data2vec-audio":
        layer = _load_audio_converter(folder)
    elif config["model_type"] == "data2vec-vision":
        layer = _load_image_converter(folder)
    else:
        raise WeightsError(f"{folder}: model_type {config['model_type']!r} is not read.")
    if image_shape is not None and isinstance(layer, Data2VecImageConverter):
        layer.image_size = tuple(image_shape[:2])
    return layer


def save_preprocessing(layer, folder, max_length=None):
    """Writes the settings as `transformers` reads them.

    Args:
        layer: what `load_preprocessing` returns.
        folder: str. Exists.
        max_length: optional int. Tokens that a text may have.

    Raises:
        WeightsError: for settings that theirs have no field for.
    """
    if isinstance(layer, Data2VecTextTokenizer):
        TextTokenizer.from_layer(layer).save(folder)
        content = {
            "tokenizer_class": "RobertaTokenizer",
            "add_prefix_space": False,
            "model_max_length": max_length,
        }
        _write_json(content, os.path.join(folder, "tokenizer_config.json"))
        return
    if isinstance(layer, Data2VecAudioConverter):
        content = {
            "feature_extractor_type": "Wav2Vec2FeatureExtractor",
            "return_attention_mask": True,
            **AUDIO_REQUIRED,
        }
    else:
        content = image_fields(layer)
    _write_json(content, os.path.join(folder, "preprocessor_config.json"))


def image_fields(layer):
    """The fields of `BeitImageProcessor` that do what a converter does: a dict."""
    scale = np.atleast_1d(1.0 if layer.scale is None else layer.scale).astype("float64")
    offset = np.atleast_1d(0.0 if layer.offset is None else layer.offset).astype("float64")
    std = 1 / (255 * scale)
    fields = {
        "image_processor_type": "BeitImageProcessor",
        "do_resize": layer.image_size is not None,
        "do_center_crop": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": (-offset * std).tolist(),
        "image_std": (std + 0 * offset).tolist(),
    }
    if layer.image_size is None:
        return fields
    height, width = layer.image_size
    numbers = {ours: number for number, ours in INTERPOLATIONS.items()}
    if layer.pad_to_aspect_ratio or layer.interpolation not in numbers:
        raise WeightsError(
            f"{type(layer).__name__} cannot be written for transformers: it has no field for "
            f"pad_to_aspect_ratio={layer.pad_to_aspect_ratio} or "
            f"interpolation={layer.interpolation!r}."
        )
    fields["resample"] = numbers[layer.interpolation]
    if not layer.crop_to_aspect_ratio:
        fields["size"] = {"height": height, "width": width}
    elif height == width:
        fields["size"] = {"shortest_edge": height}
        fields["crop_size"] = {"height": height, "width": width}
        fields["do_center_crop"] = True
    else:
        raise WeightsError(
            f"{type(layer).__name__} cannot be written for transformers: it has no field for "
            f"crop_to_aspect_ratio=True with image_size={layer.image_size}, which is not square."
        )
    if not layer.antialias:
        warnings.warn(
            "antialias=False: transformers always smooths an image that it makes smaller, so that "
            "its pixels differ a little from ours",
            stacklevel=2,
        )
    return fields


def _load_from_preset(folder):
    for name, layer_class in PRESET_FILES.items():
        if os.path.isfile(os.path.join(folder, name)):
            return layer_class.from_preset(folder)
    return None


def _load_tokenizer(folder, config):
    if not any(all(os.path.isfile(os.path.join(folder, n)) for n in names) for names in FILES):
        return None
    tokenizer = load_tokenizer(folder)
    path = os.path.join(folder, "tokenizer_config.json")
    settings = read_json(path) if os.path.isfile(path) else {}
    for field, values in TOKENIZER_REQUIRED.items():
        if settings.get(field) not in values:
            raise WeightsError(
                f"{path}: {field} is {settings[field]!r}, which is not supported; only False is."
            )
    size, padding = config.get("vocab_size", 30522), config.get("pad_token_id", 1)
    if tokenizer.vocabulary_size > size or tokenizer.padding_token_id != padding:
        raise WeightsError(
            f"{folder}: its tokenizer has {tokenizer.vocabulary_size} tokens and <pad> at "
            f"{tokenizer.padding_token_id}; config.json has {size} and {padding}."
        )
    return tokenizer.in_graph()


def _settings(folder, part):
    """The settings and the file they are in; (`None`, `None`) where there are none."""
    path = os.path.join(folder, "preprocessor_config.json")
    if os.path.isfile(path):
        return read_json(path), path
    path = os.path.join(folder, "processor_config.json")  # newer: of several parts
    if os.path.isfile(path) and part in (content := read_json(path)):
        return content[part], path
    return None, None


def _refuse_unknown(settings, known, path):
    unknown = sorted(field for field in settings if field not in known and field[0] != "_")
    if unknown:
        raise WeightsError(
            f"{path}: unknown fields: {', '.join(unknown)}. If they do not change the input, "
            "remove them from the file."
        )


def _load_audio_converter(folder):
    settings, path = _settings(folder, "feature_extractor")
    if settings is None:
        return None
    _refuse_unknown(settings, {*AUDIO_REQUIRED, *AUDIO_IGNORED}, path)
    for field, value in AUDIO_REQUIRED.items():
        if settings.get(field, value) != value:
            raise WeightsError(
                f"{path}: {field} is {settings[field]!r}, which is not supported; only "
                f"{value!r} is."
            )
    return Data2VecAudioConverter()


def _load_image_converter(folder):
    settings, path = _settings(folder, "image_processor")
    if settings is None:
        return None
    _refuse_unknown(settings, {*IMAGE_FIELDS, *IMAGE_IGNORED}, path)
    fields = {field: settings.get(field, default) for field, default in IMAGE_FIELDS.items()}
    for field, value in fields.items():
        if not is_like(value, IMAGE_FIELDS[field]):
            raise WeightsError(
                f"{path}: {field} is {value!r}; a value like {IMAGE_FIELDS[field]!r} is needed."
            )
    if fields["resample"] not in INTERPOLATIONS:
        raise WeightsError(
            f"{path}: resample is {fields['resample']!r}, which is not supported; only "
            f"{', '.join(map(str, INTERPOLATIONS))} are."
        )
    mean, std = np.array(0.0), np.array(1.0)
    if fields["do_normalize"]:
        mean = _numbers(fields["image_mean"], "image_mean", path)
        std = _numbers(fields["image_std"], "image_std", path)
    factor = fields["rescale_factor"] if fields["do_rescale"] else 1.0
    image_size, crop = _image_size(fields, path)
    return Data2VecImageConverter(
        image_size=image_size,
        scale=(factor / std).tolist(),
        offset=(-mean / std).tolist(),
        crop_to_aspect_ratio=crop,
        interpolation=INTERPOLATIONS[fields["resample"]],
        antialias=True,  # PIL's filters widen where an image is made smaller
    )


def _image_size(fields, path):
    """((height, width) or `None`, whether the longer side is cut)."""
    size, crop_size = (_sides(fields[field]) for field in ("size", "crop_size"))
    if not fields["do_resize"] and not fields["do_center_crop"]:
        return None, False
    if fields["do_resize"] and isinstance(size, tuple):
        if not fields["do_center_crop"] or crop_size == size:
            return size, False
    if fields["do_resize"] and fields["do_center_crop"] and isinstance(crop_size, tuple):
        if size == {"shortest_edge": crop_size[0]} and crop_size[0] == crop_size[1]:
            return crop_size, True
    raise WeightsError(
        f"{path}: do_resize {fields['do_resize']} to size {fields['size']!r} with do_center_crop "
        f"{fields['do_center_crop']} to crop_size {fields['crop_size']!r} is not supported; only "
        "height and width, or a shortest_edge with a crop to a square of this side, are."
    )


def _sides(size):
    """(height, width) of a setting that names both, else the setting."""
    if size is None:
        return 224, 224
    if isinstance(size, int):
        return size, size
    if isinstance(size, dict) and set(size) == {"height", "width"}:
        return size["height"], size["width"]
    return size


def _numbers(value, field, path):
    try:
        numbers = np.asarray(0.5 if value is None else value, "float64")
    except (TypeError, ValueError):
        numbers = np.zeros((0, 0))
    if numbers.ndim > 1 or (field == "image_std" and not np.all(numbers > 0)):
        raise WeightsError(f"{path}: {field} is {value!r}; positive numbers are needed.")
    return numbers


def _write_json(content, path):
    with open(path, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=2)
        file.write("\n")
