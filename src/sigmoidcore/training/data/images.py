"""A folder of images, one folder a class: found, looked at, decoded in batches."""

import math
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sigmoidcore.training.data.error import DataError, listed, needed, short
from sigmoidcore.training.data.order import shuffled as order
from sigmoidcore.training.data.parts import Batch, InMemory, batches_of_rows, joined
from sigmoidcore.training.data.preprocessing import Pixels

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
GREY = ("1", "L", "LA")
AT_A_TIME = 256
"""Images that are decoded before the next are, when all are looked at."""
NUMBERS = 2**25
"""Fewer, where they are large: so many numbers at a time."""


@dataclass(frozen=True)
class Found:
    """Images by class.

    Attributes:
        paths: of the files, class by class, sorted.
        labels: class number of each.
        classes: names of the folders, sorted.
        shape: that each image will have, [channels, height, width].
        notes: what a user should know.
    """

    paths: tuple[Path, ...]
    labels: np.ndarray
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    notes: tuple[str, ...]


def has_images(folder: Path) -> bool:
    """Whether a folder has folders with images in them."""
    return any(_images(below) for below in _folders(folder))


def find(folder: Path) -> Found:
    """All images below a folder, one folder a class; hidden files and files of other kinds are left out.

    The shape is the most frequent size; grey if all images are, and colour (RGB) otherwise.

    Raises:
        DataError: there are none, or one cannot be read.
    """
    paths: list[Path] = []
    labels: list[int] = []
    empty: list[str] = []
    classes: list[str] = []
    for below in _folders(folder):
        images = _images(below)
        if not images:
            empty.append(below.name)
            continue
        paths += images
        labels += [len(classes)] * len(images)
        classes.append(below.name)
    if not paths:
        raise DataError(
            f"{folder} has no folders with images in them: make one folder a class, and put its images there"
        )
    if empty:
        raise DataError(
            f"no image is in {listed(str(folder / name) for name in empty)}: put images there, or remove it"
        )
    heads = [_head(path) for path in paths]
    sizes = Counter(size for size, _ in heads)
    (width, height), count = max(sizes.items(), key=lambda item: (item[1], item[0]))
    channels = 1 if all(mode in GREY for _, mode in heads) else 3
    notes: tuple[str, ...] = ()
    if count < len(paths):
        notes = (f"{len(paths) - count:,} of {len(paths):,} images are resized to {width} x {height}",)
    return Found(tuple(paths), np.array(labels), tuple(classes), (channels, height, width), notes)


def _folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith((".", "__")))


def _images(folder: Path) -> list[Path]:
    return sorted(
        p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith(".") and p.is_file()
    )


def below(path: Path) -> list[Path]:
    """An image, or the images of a folder: first those in itself, then those in its folders; each sorted by name."""
    if path.is_file():
        return [path]
    return [*_images(path), *(image for folder in _folders(path) for image in _images(folder))]


def _head(path: Path) -> tuple[tuple[int, int], str]:
    with _opened(path) as image:
        return image.size, image.mode


def _opened(path: Path) -> Any:
    module = needed("PIL.Image", "pillow")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", module.DecompressionBombWarning)
            return module.open(path, formats=("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM"))
    except Exception as error:  # each format has errors of its own
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"{path} cannot be read as an image ({short(error, 100)}): mend it, or remove it")


def decode(path: Path, shape: Sequence[int]) -> np.ndarray:
    """One image as numbers from 0 to 255, uint8, [channels, height, width].

    Raises:
        DataError: it cannot be read.
    """
    channels, height, width = shape
    module = needed("PIL.Image", "pillow")
    with _opened(path) as image:
        try:
            made = image.convert("L" if channels == 1 else "RGB")
            if made.size != (width, height):
                made = made.resize((width, height), module.Resampling.BILINEAR)
            pixels = np.array(made, dtype=np.uint8)
        except Exception as error:  # each format has errors of its own
            raise _unreadable(path, error) from error
    return pixels.reshape(height, width, channels).transpose(2, 0, 1)


def decoded(paths: Sequence[Path], shape: Sequence[int]) -> np.ndarray:
    """Images, uint8, [images, channels, height, width]."""
    return np.stack([decode(path, shape) for path in paths])


def fitted(paths: Sequence[Path], shape: tuple[int, ...]) -> Pixels:
    """The mean and deviation of each channel, over all images, some at a time."""
    scaler = needed("sklearn.preprocessing", "scikit-learn").StandardScaler()
    step = max(1, min(AT_A_TIME, NUMBERS // math.prod(shape)))
    for start in range(0, len(paths), step):
        images = decoded(paths[start : start + step], shape)
        scaler.partial_fit(images.transpose(0, 2, 3, 1).reshape(-1, shape[0]).astype(np.float64))
    return Pixels(shape, tuple(scaler.mean_.tolist()), tuple(scaler.scale_.tolist()))


@dataclass(frozen=True)
class Images:
    """Images that are decoded when their batch is due.

    Attributes:
        paths: of the files.
        labels: class numbers.
        pixels: how they are scaled.
    """

    paths: tuple[Path, ...]
    labels: np.ndarray
    pixels: Pixels

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.paths)

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """All images, in an order that is always the same; mixed, for the files are sorted by class."""
        for rows in torch.split(order(len(self), 0, 0), batch_size):
            yield self._batch(rows)

    def shuffled(self, batch_size: int, seed: int, epoch: int, start: int) -> Iterator[Batch]:
        """Images from batch `start` on, in this epoch's order."""
        for rows in batches_of_rows(order(len(self), seed, epoch), batch_size, start):
            yield self._batch(rows)

    def _batch(self, rows: torch.Tensor) -> Batch:
        images = decoded([self.paths[row] for row in rows.tolist()], self.pixels.shape)
        return torch.from_numpy(self.pixels.apply(images)), torch.from_numpy(self.labels[rows.numpy()])


def kept(part: Images) -> InMemory:
    """Images that are decoded once and then in memory."""
    return InMemory(*joined(list(part.in_order(AT_A_TIME))))
