"""New samples that are no rows of a table: arrays and images, as a run that has learnt from such ones takes them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sigmoidcore.training.data import images
from sigmoidcore.training.data.arrays import inputs_of, read_arrays
from sigmoidcore.training.data.builtin import BUILT_IN, TABLES, built_in
from sigmoidcore.training.data.equality import alike
from sigmoidcore.training.data.error import DataError, listed, needed, short
from sigmoidcore.training.data.idx import has_idx, read_part
from sigmoidcore.training.data.preprocessing import Pixels, Preprocessing
from sigmoidcore.training.data.tables import ARRAYS, array_column, suffix

NUMBERS = 2**22
"""Numbers of an array that are scaled together."""
FAR = 20.0
"""Samples so many times as far from the mean of those that were learnt from, or as near, are not of the same unit."""
ENOUGH = 10
"""Samples of which one can say that they are near to each other."""

Found = tuple[int, Tensor, Tensor | None, dict[str, Any]]
"""Number of the first sample, inputs, targets if they were asked for, columns that go with the predictions."""


def pieces_of_samples(source: Any, preprocessing: Preprocessing, targets: bool) -> Iterator[Found]:
    """The samples of a source in their order; of images with the column "file".

    Args:
        source: an array, an NPZ or NPY file, an image, a folder of images (with folders of classes or without), a
            folder of idx files (their test part), or the name of a built-in set (its test part).
        preprocessing: of the run.
        targets: whether the targets are wanted as well.

    Raises:
        DataError: it cannot be read, or does not fit.
    """
    if isinstance(source, str) and source in BUILT_IN:
        yield from _of_built_in(source, preprocessing, targets)
        return
    if not isinstance(source, str | Path):
        yield from _scaled(_array(source), None, preprocessing, targets, "the array")
        return
    path = Path(source)
    if path.is_dir() and has_idx(path):
        x, y = read_part(path, "t10k")
        yield from _scaled(x / 255.0, y, preprocessing, targets, str(path))
    elif path.is_dir() or suffix(path) in images.SUFFIXES:
        yield from _of_images(path, preprocessing, targets)
    elif path.is_file() and suffix(path) in ARRAYS:
        arrays = read_arrays(path)
        found = (arrays[""], None) if "" in arrays else inputs_of(path, arrays, preprocessing.target.names)
        yield from _scaled(*found, preprocessing, targets, str(path))
    elif path.exists():
        raise DataError(
            f"{path} is no array and no image, and the run has learnt from samples of shape "
            f"{list(preprocessing.inputs.shape)}: give an .npy or .npz file, or a folder of images"
        )
    else:
        raise DataError(f"{path} is neither a file nor a folder: give one that is there")


def _array(source: Any) -> np.ndarray:
    if isinstance(source, Tensor):
        return np.asarray(source.detach().cpu().numpy())
    if isinstance(source, np.ndarray):
        return source
    raise DataError(f"a {type(source).__name__} has no samples: give a NumPy array, a tensor, a file or a folder")


def _scaled(
    x: np.ndarray, y: np.ndarray | None, preprocessing: Preprocessing, targets: bool, name: str
) -> Iterator[Found]:
    pixels = preprocessing.inputs
    assert isinstance(pixels, Pixels)
    columns = None
    if targets:
        if y is None:
            raise DataError(
                f"{name} has no targets (array {preprocessing.target.names[0]!r}): give samples with their targets"
            )
        columns = [array_column(values) for values in y.reshape(len(y), -1).T]
    samples = _shaped(x, pixels.shape, name)
    together = max(1, NUMBERS // max(1, int(np.prod(pixels.shape))))
    for start in range(0, len(samples), together):
        chosen = samples[start : start + together]
        encoded = None
        if columns is not None:
            encoded = preprocessing.target.encoded([values.slice(start, together) for values in columns], start)
        yield start, _checked(preprocessing.transform(chosen), name, start), encoded, {}


def _shaped(x: np.ndarray, shape: tuple[int, ...], name: str) -> np.ndarray:
    """Samples of the shape that was learnt from; flat ones, and images without their one channel, are so as well."""
    flat = (int(np.prod(shape)),)
    grey = shape[1:] if len(shape) == 3 and shape[0] == 1 else shape
    if x.shape[1:] not in (shape, grey, flat) or x.dtype.kind not in "biuf":
        raise DataError(
            f"{name} has samples of shape {list(x.shape[1:])} and type {x.dtype} where those that were learnt from "
            f"have {list(shape)}: give such ones"
        )
    if not len(x):
        raise DataError(f"{name} has no samples: give an array with some")
    return x.reshape(len(x), *shape)


def _checked(inputs: Tensor, name: str, first: int) -> Tensor:
    finite = torch.isfinite(inputs).flatten(1).all(1)
    if not bool(finite.all()):
        row = first + int(finite.logical_not().int().argmax()) + 1
        raise DataError(f"{name} has a value that is not finite in sample {row}: mend it, or remove the sample")
    far, wide = abs(float(inputs.mean())), float(inputs.std(correction=0))
    if far > FAR or wide > FAR or (wide < 1 / FAR and len(inputs) >= ENOUGH):
        raise DataError(
            f"{name} has samples with mean {float(inputs.mean()):.3g} and deviation {wide:.2g} where those that were "
            "learnt from have 0 and 1, once scaled: give them in the same unit (is one from 0 to 1, one from 0 to 255?)"
        )
    return inputs


def _of_built_in(name: str, preprocessing: Preprocessing, targets: bool) -> Iterator[Found]:
    if name in TABLES:
        raise DataError(f"{name} is a table, and the run has learnt from samples: give such ones")
    data = built_in(name)
    if not alike(data.preprocessing, preprocessing):
        raise DataError(f"the run has not learnt from {name}: give samples like those that it has learnt from")
    first = 0
    for x, y in data.test_batches(4096):
        yield first, x, y if targets else None, {}
        first += len(x)


def _of_images(path: Path, preprocessing: Preprocessing, targets: bool) -> Iterator[Found]:
    shape, target = preprocessing.inputs.shape, preprocessing.target
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise DataError(
            f"{path} has images, and the run has learnt from samples of shape {list(shape)}: give such ones"
        )
    files = images.below(path)
    if not files:
        raise DataError(f"{path} has no images in it: give a folder with some")
    if targets:
        unknown = sorted({file.parent.name for file in files} - set(target.classes))
        if unknown:
            raise DataError(
                f"{path} has images in the folder {short(unknown[0])!r}, which is none of the classes "
                f"({listed(target.classes, 5)}): put them into folders with these names"
            )
    pa = needed("pyarrow", "pyarrow")
    for start in range(0, len(files), images.AT_A_TIME):
        chosen = files[start : start + images.AT_A_TIME]
        x = _checked(preprocessing.transform(images.decoded(chosen, shape)), str(path), start)
        y = torch.tensor([target.classes.index(file.parent.name) for file in chosen]) if targets else None
        base = path if path.is_dir() else path.parent
        names = [str(file.relative_to(base)) for file in chosen]
        yield start, x, y, {"file": pa.chunked_array([pa.array(names, pa.string())])}
