"""Images that the data tests write."""

import io

import numpy as np
from PIL import Image


def picture(seed, height=40, width=48, channels=3):
    """A smooth random image, uint8 `[H, W, C]`: JPEG keeps it nearly as it is."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (4, 4, channels), dtype=np.uint8)
    planes = [
        np.asarray(Image.fromarray(coarse[..., c]).resize((width, height), Image.BICUBIC))
        for c in range(channels)
    ]
    return np.stack(planes, axis=-1)


def encode(image, kind="PNG", **options):
    """The image as the bytes of a file."""
    file = io.BytesIO()
    Image.fromarray(image if image.shape[-1] > 1 else image[..., 0]).save(file, kind, **options)
    return file.getvalue()


def write_tree(root, num_images, classes=("cat", "dog"), kind="PNG"):
    """Writes `num_images` images into class folders; returns their paths in sorted order."""
    for i in range(num_images):
        folder = root / classes[i % len(classes)]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i:04}.{kind.lower()}").write_bytes(encode(picture(i), kind))
    return sorted(root.rglob(f"*.{kind.lower()}"))
