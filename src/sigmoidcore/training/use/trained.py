"""A run that has been trained, for use: what it predicts of new data, how good it is, and its network for others."""

import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sigmoidcore._files import open_no_link
from sigmoidcore.training.data import Data, DataError, NewData, Preprocessing, needed, short
from sigmoidcore.training.progress import counted
from sigmoidcore.training.runs.folder import METRICS, PREPROCESSING, Config, read_config, read_metrics
from sigmoidcore.training.runs.network import Network, network_of
from sigmoidcore.training.runs.source import data_of
from sigmoidcore.training.use.evaluate import Evaluation, evaluated
from sigmoidcore.training.use.export import FORMATS, beside_of, export, holds_the_same
from sigmoidcore.training.use.output import check_output, check_table, write_tables
from sigmoidcore.training.use.predict import at_once, names_of, predictions


@dataclass(frozen=True)
class Predicted:
    """Predictions in a file.

    Attributes:
        path: of the file.
        rows: in it.
        columns: their names.
        notes: what a user should know of the data.
    """

    path: Path
    rows: int
    columns: tuple[str, ...]
    notes: tuple[str, ...]


class TrainedRun:
    """A run's folder, read; nothing in it is changed, and nothing in it is run as code.

    Args:
        folder: that `sigmoid-core train` or `fit` has written.
        model: the network that takes the weights, where your own code has made it.

    Attributes:
        folder: of the run.

    Raises:
        DataError: the folder holds no run.
    """

    def __init__(self, folder: str | Path, model: nn.Module | None = None) -> None:
        self.folder = Path(folder)
        self._own = model
        _ = self.config  # a folder that holds no run is said at once

    def __repr__(self) -> str:
        """The folder, and what is in it."""
        return f"TrainedRun({str(self.folder)!r}, name={self.config.name!r})"

    @cached_property
    def config(self) -> Config:
        """What the run was asked for."""
        try:
            return read_config(self.folder)
        except FileNotFoundError as error:
            raise DataError(
                f"{self.folder} holds no run: it has no config.toml; give a folder that `sigmoid-core train` wrote"
            ) from error
        except OSError as error:
            raise DataError(f"{self.folder} cannot be read: {error.strerror or short(error)}") from error
        except ValueError as error:
            raise DataError(f"{error}; was the file edited?") from error

    @cached_property
    def network(self) -> Network:
        """The network with its last weights.

        Raises:
            NetworkError: there are none, or they are damaged.
        """
        return network_of(self.folder, self._own)

    @property
    def model(self) -> nn.Module:
        """The network as a torch.nn.Module; it takes what `preprocessing.transform` makes.

        Raises:
            NetworkError: there are no weights, or they are damaged.
        """
        return self.network.model

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """How data become numbers, and outputs become predictions.

        Raises:
            DataError: it is not there, or damaged.
        """
        found = preprocessing_of(self.folder)
        if self.network.preprocessing not in ("", found.digest()):
            raise DataError(
                f"{self.folder / PREPROCESSING} is damaged: it does not have the checksum that the network knows; "
                f"`sigmoid-core train --resume {self.folder}` writes it anew"
            )
        return found

    @property
    def metrics(self) -> Any:
        """What was measured while it trained, a pandas.DataFrame with a row an epoch: step, loss, metric, spread.

        Raises:
            DataError: the file is not there, or damaged.
        """
        path = self.folder / METRICS
        try:
            rows = read_metrics(path)
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or short(error)}") from error
        except ValueError as error:
            raise DataError(str(error)) from error
        epochs = [{k: v for k, v in row.items() if k != "kind"} for row in rows if row["kind"] == "epoch"]
        return needed("pandas", "pandas").DataFrame(epochs)

    def data(self) -> Data:
        """The data set that it has learnt from, split as it was.

        Raises:
            DataError: it is not there any more, or not what it was.
        """
        data = data_of(self.config.options)
        if not data.preprocessing.alike(self.preprocessing):
            raise DataError(
                f"{data.name} is not what this run has learnt from, it has changed since: its test part may hold "
                "samples that were learnt; give other data to evaluate on"
            )
        return data

    def predict(
        self, data: Any, output: str | Path | None = None, *, keep: Sequence[str] = (),
        overwrite: bool = False,
    ) -> Any:  # fmt: skip
        """Predict, in the order of the data: for classes a probability of each, and the likeliest; else numbers.

        Args:
            data: a file or folder of any kind that the run could have learnt from, with the target or without it; a
                pandas.DataFrame, a pyarrow.Table or a NumPy array.
            output: a file for the predictions: Parquet, CSV, TSV, either with .gz, or Feather. It is written piece by
                piece, and is there when all of it is, or not at all. None: they are returned.
            keep: columns of the data that go with the predictions, such as a number of the row.
            overwrite: replace the file that is there.

        Returns:
            A pandas.DataFrame, or the path of the file. Columns: those that were kept, `prediction`, and for classes
            `probability_CLASS`; several numbers are `prediction_TARGET`.

        Raises:
            DataError: the data do not fit, or the file cannot be written; the message is one line with the remedy.
            NetworkError: there are no weights, or they are damaged.
            OSError: the disk is full.
        """
        if output is not None:
            self.predict_into(data, output, keep=keep, overwrite=overwrite)
            return Path(output)
        unseen = NewData(data, self.preprocessing, keep=keep)
        with counted("predicting", "rows") as seen:
            tables = list(seen(predictions(self.network, self.preprocessing, unseen)))
        for note in unseen.notes:
            warnings.warn(note, stacklevel=2)
        return needed("pyarrow", "pyarrow").concat_tables(tables).to_pandas()

    def predict_into(
        self, data: Any, output: str | Path, *, keep: Sequence[str] = (),
        overwrite: bool = False,
    ) -> Predicted:  # fmt: skip
        """Predict into a file; arguments and errors are those of `predict`.

        Returns:
            How many rows it has, its columns, and what is to be said of the data.
        """
        path = Path(output)
        check_table(path)
        check_output(path, overwrite, data)
        unseen = NewData(data, self.preprocessing, keep=keep)
        with counted("predicting", "rows") as seen:
            rows = write_tables(path, seen(predictions(self.network, self.preprocessing, unseen)))
        return Predicted(path, rows, (*keep, *names_of(self.preprocessing)), unseen.notes)

    def evaluate(self, data: Any = None) -> Evaluation:
        """Measure how good it is, with 95 % confidence intervals.

        Args:
            data: with the target, as for `predict`; None: the test part of the set that it has learnt from.

        Raises:
            DataError: the data do not fit, or are not there any more.
            NetworkError: there are no weights, or they are damaged.
        """
        if data is None:
            own = self.data()
            return evaluated(
                self.folder.name, f"the test part of {own.name}", self.network, self.preprocessing,
                own.test_batches(at_once(own.shape)),
            )  # fmt: skip
        unseen = NewData(data, self.preprocessing, targets=True)
        name = str(data) if isinstance(data, str | Path) else "the table"
        found = evaluated(self.folder.name, name, self.network, self.preprocessing, _with_targets(unseen))
        return found.with_notes((*self._warning(data), *unseen.notes))

    def export(self, format: str, path: str | Path | None = None, *, overwrite: bool = False) -> Path:
        """Write the network folded, as plain PyTorch layers, and `NAME.preprocessing.skops` beside it.

        Args:
            format: "onnx", "torch" (`torch.export`, .pt2) or "safetensors".
            path: of the file; None: named after the run, in this folder.
            overwrite: replace files that are there.

        Returns:
            The file.

        Raises:
            DataError: there is no such format, or the file cannot be written.
            NetworkError: there are no weights, they are damaged, or cannot be folded.
            ModuleNotFoundError: a package is not installed; the message says how to get it.
        """
        if format not in FORMATS:
            raise DataError(f"there is no format {short(format)!r}: there are {', '.join(FORMATS)}")
        found = Path(f"{self.folder.resolve().name}{FORMATS[format][0]}") if path is None else Path(path)
        check_output(found, overwrite)
        if not holds_the_same(beside_of(found), self.preprocessing):  # of another format's export
            check_output(beside_of(found), overwrite)
        return export(found, format, self.network, self.preprocessing)[0]

    def _warning(self, data: Any) -> tuple[str, ...]:
        known = str(self.config.options.get("data", ""))
        same = isinstance(data, str | Path) and (
            str(data) == known or (Path(data).exists() and Path(known).exists() and Path(data).samefile(known))
        )
        return ("these are the data that the run has learnt from: most samples are not new to it",) if same else ()


def preprocessing_of(folder: Path) -> Preprocessing:
    """A run's preprocessing.

    Raises:
        DataError: it is not there, or damaged.
    """
    path = folder / PREPROCESSING
    remedy = f"`sigmoid-core train --resume {folder}` writes it anew"
    if not path.exists():
        raise DataError(f"{folder} holds no {PREPROCESSING}: {remedy}, if the run is not of an older version")
    try:
        with os.fdopen(open_no_link(path, os.O_RDONLY), "rb") as file:
            content = file.read()
        return Preprocessing.from_bytes(content)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or short(error)}") from error
    except ValueError as error:
        raise DataError(f"{path}: {short(error, 200)}; {remedy}") from error


def open_run(folder: str | Path, model: nn.Module | None = None) -> TrainedRun:
    """Open the folder of a run, to use its network.

    Args:
        folder: that `sigmoid-core train` or `fit` has written.
        model: the network that takes the weights, where your own code has made it. No code is run for a folder's sake.

    Raises:
        DataError: the folder holds no run.
    """
    return TrainedRun(folder, model)


def _with_targets(unseen: NewData) -> Iterator[tuple[Tensor, Tensor]]:
    for piece in unseen.pieces():
        assert piece.targets is not None
        yield piece.inputs, piece.targets
