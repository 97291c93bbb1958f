"""Samples without columns: arrays of NumPy's NPY and NPZ files, and images in folders. Nothing in them is run."""

import math
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sigmoidcore.training.data.errors import DataError, listed, nearest, needed, pa
from sigmoidcore.training.data.files import check_size
from sigmoidcore.language import _
from unstuck.language.errors import short

INPUTS, TARGETS = "x", "y"
"""Names of the arrays of inputs and of targets."""
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
"""Endings of images."""
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
NUMBERS = 2**24
"""Numbers that are read, and decoded, at a time."""


@dataclass(frozen=True)
class Samples:
    """Numbers of one shape for each sample, which are read when they are taken."""

    name: str  # in messages
    shape: tuple[int, ...]  # of one sample; of images [channels, height, width]
    count: int
    take: Callable[[Any], np.ndarray]  # a slice or row numbers -> [samples, *shape]
    targets: Mapping[str, Any] = field(default_factory=dict)  # a pyarrow.ChunkedArray by name
    files: Sequence[str] = ()  # names of the images
    notes: tuple[str, ...] = ()

    @property
    def channels(self) -> int:
        """Number of means and deviations with which they are scaled."""
        return self.shape[0] if self.files else 1

    @property
    def at_a_time(self) -> int:
        """Number of samples that are read together."""
        return max(1, NUMBERS // math.prod(self.shape))


# --- arrays ----------------------------------------------------------------------------------------------------------


def read_arrays(path: Path, target: str | None, required: bool = True) -> tuple[np.ndarray, dict[str, Any]]:
    """The inputs of an NPY or NPZ file, [samples, ...], and its targets as columns by name, if it has any."""
    arrays = _arrays(path)
    if "" in arrays:
        return arrays[""], {}
    named = target or TARGETS
    if required and named not in arrays:
        raise DataError(
            "{path} has no array {named!r}: name the target (--target); {hint}",
            path=path,
            named=short(named),
            hint=nearest(named, arrays),
        )
    others = [name for name in arrays if name != named]
    inputs = others[0] if len(others) == 1 else INPUTS
    if inputs not in arrays:
        raise DataError(
            "{path} has no array named x for the inputs: name it x; {hint}", path=path, hint=nearest(INPUTS, arrays)
        )
    x, y = arrays[inputs], arrays.get(named)
    if x.ndim < 1 or (y is not None and (y.ndim not in (1, 2) or len(x) != len(y))):
        raise DataError(
            "{path}: inputs {inputs!r} have the shape {shape} and targets {named!r} {targets}: give "
            "as many targets as inputs, [samples] or [samples, numbers]",
            path=path,
            inputs=short(inputs),
            shape=list(x.shape),
            named=short(named),
            targets=[] if y is None else list(y.shape),
        )
    if not x.size or (y is not None and not y.size):
        raise DataError("{path} has arrays without samples: give a file with data", path=path)
    columns = [] if y is None else [array_column(values) for values in y.reshape(len(y), -1).T]
    names = [named] if len(columns) == 1 else [f"{named}{number}" for number in range(len(columns))]
    return (x[:, None] if x.ndim == 1 else x), dict(zip(names, columns, strict=True))


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an NPZ file by name; the array of an NPY file under the name ""."""
    broken = DataError.replacing(
        "{path} cannot be read as {suffix} ({error}): was it cut off?", Exception, path=path, suffix=path.suffix[1:]
    )  # NumPy has an error for each: a broken header, a broken archive, too little memory
    with broken, path.open("rb") as file:
        if zipfile.is_zipfile(file):
            check_size(path, sum(member.file_size for member in zipfile.ZipFile(file).infolist()))
        file.seek(0)
        try:
            opened = np.load(file, allow_pickle=False)
            arrays = {"": opened} if isinstance(opened, np.ndarray) else dict(opened)
        except ValueError as error:
            if "pickle" not in str(error):
                raise
            raise DataError(
                "{path} contains Python objects, or is not a file of NumPy: objects could run code and are not read; "
                "save plain arrays of numbers (not of dtype object) with numpy.savez",
                path=path,
            ) from error
    for name, array in arrays.items():
        if array.dtype.kind not in "biufU":
            raise DataError(
                "array {name!r} of {path} has the type {dtype}: give arrays of numbers, truth values or text",
                name=short(name),
                path=path,
                dtype=short(array.dtype),
            )
    return arrays


def array_column(values: np.ndarray) -> Any:
    """A vector as a pyarrow.ChunkedArray; NaN is a missing value."""
    values = values.astype(np.float64) if values.dtype.kind == "f" else values
    return pa.chunked_array([pa.array(np.ascontiguousarray(values), from_pandas=True)])


def matrix_table(name: object, values: np.ndarray, targets: Mapping[str, Any]) -> Any:
    """A matrix as a pyarrow.Table with columns named 0, 1, 2, ... and the targets."""
    if values.ndim != 2 or values.dtype.kind not in "biufU" or not values.size:
        raise DataError(
            "{name} has the shape {shape} and the type {dtype}: give a matrix of numbers, [rows, "
            "columns], or a pandas.DataFrame",
            name=name,
            shape=list(values.shape),
            dtype=values.dtype,
        )
    return pa.table({str(number): array_column(column) for number, column in enumerate(values.T)} | dict(targets))


def check_finite(values: np.ndarray, name: str, first: int) -> None:
    """Refuse samples [samples, ...] with a value that is not finite; `first` is the number of the first sample."""
    finite = np.isfinite(values.reshape(len(values), -1)).all(1)
    if not finite.all():
        row = first + int(finite.argmin()) + 1
        raise DataError(
            "{name} has a value that is not finite in sample {row}: correct it, or remove the sample",
            name=name,
            row=row,
        )


def array_samples(name: object, x: np.ndarray, targets: Mapping[str, Any], shape: tuple[int, ...]) -> Samples:
    """Samples of a shape; they may be flat, and grey images may lack the channel."""
    grey = shape[1:] if len(shape) == 3 and shape[0] == 1 else shape
    if x.shape[1:] not in (shape, grey, (math.prod(shape),)) or x.dtype.kind not in "biuf":
        raise DataError(
            "{name} has samples of shape {found} and type {dtype}: give an array of numbers of the shape {shape} "
            "for each sample",
            name=name,
            found=list(x.shape[1:]),
            dtype=x.dtype,
            shape=list(shape),
        )
    return Samples(str(name), shape, len(x), lambda rows: x[rows].reshape(-1, *shape), targets)


# --- images ----------------------------------------------------------------------------------------------------------


def has_images(folder: Path) -> bool:
    """Whether a folder has subfolders with images."""
    return any(_images(below) for below in _folders(folder))


def training_images(folder: Path) -> Samples:
    """The images in the subfolders of a folder, one subfolder for each class.

    The shape is the most frequent size; grey if all images are, else RGB.
    """
    empty = [str(below) for below in _folders(folder) if not _images(below)]
    if empty:
        raise DataError("no image is in {names}: put images there, or remove it", names=listed(empty))
    paths = [path for below in _folders(folder) for path in _images(below)]
    heads = []
    for path in paths:
        with _opened(path) as image:
            heads.append((image.size, image.mode))
    (width, height), count = max(Counter(size for size, _ in heads).items(), key=lambda item: (item[1], item[0]))
    channels = 1 if all(mode in ("1", "L", "LA") for _, mode in heads) else 3
    numbers = {"count": len(paths) - count, "all": len(paths), "width": width, "height": height}
    resized = _("{count:,} of {all:,} images are resized to {width} x {height}", **numbers)
    return _image_samples(folder, paths, (channels, height, width), (resized,) if count < len(paths) else ())


def new_images(path: Path, shape: tuple[int, ...]) -> Samples:
    """An image, or the images of a folder and of its subfolders, resized to a shape."""
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise DataError(
            "{path} has images, and the run has learnt from samples of shape {shape}: give these",
            path=path,
            shape=list(shape),
        )
    if path.is_file():
        return _image_samples(path.parent, [path], shape)
    files = [*_images(path), *(image for folder in _folders(path) for image in _images(folder))]
    if not files:
        raise DataError("{path} has no images in it: give a folder with some", path=path)
    return _image_samples(path, files, shape)


def _image_samples(base: Path, paths: list[Path], shape: tuple[int, ...], notes: tuple[str, ...] = ()) -> Samples:
    def take(rows: Any) -> np.ndarray:
        chosen = paths[rows] if isinstance(rows, slice) else [paths[row] for row in rows]
        return np.stack([_decoded(path, shape) for path in chosen])

    classes = pa.chunked_array([[path.parent.name for path in paths]])
    files = [str(path.relative_to(base)) for path in paths]
    return Samples(str(base), shape, len(paths), take, {"class": classes}, files, notes)


def _folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith((".", "__")))


def _images(folder: Path) -> list[Path]:
    return sorted(
        p for p in folder.iterdir() if p.suffix.lower() in IMAGES and not p.name.startswith(".") and p.is_file()
    )


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """An image of a known format; whatever is wrong with it is a DataError."""
    module = needed("PIL.Image", "pillow")
    bomb = warnings.catch_warnings(action="error", category=module.DecompressionBombWarning)
    broken = DataError.replacing(
        "{path} cannot be read as an image ({error}): replace it, or remove it", Exception, path=path
    )  # each format has its own errors
    with broken, bomb, module.open(path, formats=_FORMATS) as image:
        yield image


def _decoded(path: Path, shape: Sequence[int]) -> np.ndarray:
    """One image as numbers from 0 to 255, uint8, [channels, height, width]."""
    channels, height, width = shape
    with _opened(path) as image:
        made = image.convert("L" if channels == 1 else "RGB")
        if made.size != (width, height):
            made = made.resize((width, height), needed("PIL.Image", "pillow").Resampling.BILINEAR)
        pixels = np.array(made, dtype=np.uint8)
    return pixels.reshape(height, width, channels).transpose(2, 0, 1)
