"""Images in folders, one folder for each class, decoded by Pillow."""

import math
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sigmoidcore.training.data.errors import DataError, listed, needed, short
from sigmoidcore.training.data.preprocessing import SampleInputs

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
GREY = ("1", "L", "LA")
NUMBERS = 2**25
"""Pixel values that are decoded at a time when all images are read."""


@dataclass(frozen=True)
class ImageFolder:
    """Images by class."""

    paths: tuple[Path, ...]
    labels: np.ndarray
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    notes: tuple[str, ...]


def has_images(folder: Path) -> bool:
    """Whether a folder has subfolders with images."""
    return any(_images(below) for below in _folders(folder))


def find_images(folder: Path) -> ImageFolder:
    """All images below a folder; hidden files and other kinds of files are left out.

    The shape is the most frequent size; grey if all images are, else RGB.
    """
    found = {below: _images(below) for below in _folders(folder)}
    empty = [str(below) for below, images in found.items() if not images]
    if empty:
        raise DataError(f"no image is in {listed(empty)}: put images there, or remove it")
    paths = [path for images in found.values() for path in images]
    labels = np.repeat(np.arange(len(found)), [len(images) for images in found.values()])
    heads = []
    for path in paths:
        with _opened(path) as image:
            heads.append((image.size, image.mode))
    (width, height), count = max(Counter(size for size, _ in heads).items(), key=lambda item: (item[1], item[0]))
    channels = 1 if all(mode in GREY for _, mode in heads) else 3
    resized = f"{len(paths) - count:,} of {len(paths):,} images are resized to {width} x {height}"
    notes = (resized,) if count < len(paths) else ()
    classes = tuple(below.name for below in found)
    return ImageFolder(tuple(paths), labels, classes, (channels, height, width), notes)


def _folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith((".", "__")))


def _images(folder: Path) -> list[Path]:
    return sorted(
        p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith(".") and p.is_file()
    )


def images_below(path: Path) -> list[Path]:
    """An image, or the images of a folder and of its subfolders; each sorted by name."""
    if path.is_file():
        return [path]
    return [*_images(path), *(image for folder in _folders(path) for image in _images(folder))]


def _opened(path: Path) -> Any:
    module = needed("PIL.Image", "pillow")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", module.DecompressionBombWarning)
            return module.open(path, formats=_FORMATS)
    except Exception as error:  # each format has its own errors
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"{path} cannot be read as an image ({short(error, 100)}): replace it, or remove it")


def decode(path: Path, shape: Sequence[int]) -> np.ndarray:
    """One image as numbers from 0 to 255, uint8, [channels, height, width]."""
    channels, height, width = shape
    with _opened(path) as image:
        try:
            made = image.convert("L" if channels == 1 else "RGB")
            if made.size != (width, height):
                made = made.resize((width, height), needed("PIL.Image", "pillow").Resampling.BILINEAR)
            pixels = np.array(made, dtype=np.uint8)
        except Exception as error:  # each format has its own errors
            raise _unreadable(path, error) from error
    return pixels.reshape(height, width, channels).transpose(2, 0, 1)


def decoded(paths: Sequence[Path], shape: Sequence[int]) -> np.ndarray:
    """Images, uint8, [images, channels, height, width]."""
    return np.stack([decode(path, shape) for path in paths])


def at_a_time(shape: Sequence[int]) -> int:
    """Number of images of a shape that are decoded at a time."""
    return max(1, min(256, NUMBERS // math.prod(shape)))


def fitted_images(paths: Sequence[Path], shape: tuple[int, ...]) -> SampleInputs:
    """The mean and deviation of each channel over all images."""
    sums = np.zeros((2, shape[0]))
    step = at_a_time(shape)
    for start in range(0, len(paths), step):
        images = decoded(paths[start : start + step], shape).astype(np.float64)
        sums += images.sum((0, 2, 3)), np.square(images).sum((0, 2, 3))
    mean, squares = sums / (len(paths) * shape[1] * shape[2])
    scale = np.sqrt(np.maximum(squares - mean**2, 0))
    return SampleInputs(shape, tuple(mean.tolist()), tuple(np.where(scale > 0, scale, 1.0).tolist()))
