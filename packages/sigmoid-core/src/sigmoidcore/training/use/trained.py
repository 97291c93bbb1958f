"""A trained run: its predictions for new data, its evaluation, and its network for other programs."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sigmoidcore.training.data import Data, DataError, NewData, Preprocessing, needed, short
from sigmoidcore.training.networks import Network
from sigmoidcore.training.runs.folder import (
    CONFIG,
    METRICS,
    PREPROCESSING,
    Config,
    data_of,
    read_config,
    read_metrics,
    refuse_changed,
)
from sigmoidcore.training.runs.weights import network_of
from sigmoidcore.training.use.evaluate import Evaluation, evaluate_network
from sigmoidcore.training.use.export import FORMATS, exported, path_of_preprocessing
from sigmoidcore.training.use.predict import (
    batch_size_for,
    check_output,
    check_table,
    names_of,
    predictions,
    same_file,
    write_tables,
)
from unstuck.files import read_regular, write_file
from sigmoidcore.language import _


@dataclass(frozen=True)
class Predicted:
    """Predictions in a file."""

    path: Path  # of the file
    rows: int  # number of rows
    columns: tuple[str, ...]  # their names
    notes: tuple[str, ...]  # what the user should know of the data


class TrainedRun:
    """A run's folder for reading; nothing in it is changed, and nothing in it is executed. `open_run` makes one.

    Attributes:
        folder: of the run.
        config: the request for the run.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not (self.folder / CONFIG).exists():
            raise DataError(
                "{folder} does not contain a run: it has no config.toml; give a folder that `sigmoid-core train` wrote",
                folder=folder,
            )
        with _readable(self.folder / CONFIG, _("was the file edited?")):
            self.config: Config = read_config(self.folder)

    def __repr__(self) -> str:
        return f"TrainedRun({str(self.folder)!r}, name={self.config.name!r})"

    @cached_property
    def network(self) -> Network:
        """The network with its last weights; InputError if there are none, or they are damaged."""
        return network_of(self.folder)

    @property
    def model(self) -> nn.Module:
        """The network as a torch.nn.Module; its inputs are those of `preprocessing.transform`."""
        return self.network.model

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """How data become numbers, and outputs become predictions; DataError if it is damaged."""
        path = self.folder / PREPROCESSING
        with _readable(path, _("`sigmoid-core train --resume {folder}` restores it", folder=self.folder)):
            return Preprocessing.from_bytes(read_regular(path))

    @property
    def metrics(self) -> Any:
        """Metrics of the training, a pandas.DataFrame with a row per epoch: step, loss, metric, spread."""
        epochs = [{k: v for k, v in row.items() if k != "kind"} for row in self._rows() if row["kind"] == "epoch"]
        return needed("pandas", "pandas").DataFrame(epochs)

    def _rows(self) -> list[dict[str, Any]]:
        if not (self.folder / METRICS).exists():
            return []
        with _readable(self.folder / METRICS, _("was the file edited?")):
            return read_metrics(self.folder / METRICS)

    def data(self) -> Data:
        """The data set of the training, split in the same way; DataError if it has changed or is gone."""
        data = data_of(self.config.options)
        remedy = _("its test part may contain samples of the training; give other data to evaluate on")
        refuse_changed(data, self._rows(), remedy)
        return data

    def predict(
        self, data: Any, output: str | Path | None = None, *, keep: Sequence[str] = (),
        overwrite: bool = False,
    ) -> Any:  # fmt: skip
        """Predict, in the order of the data: for classes the likeliest and all probabilities; else numbers.

        Args:
            data: a file or folder that `load` reads, a pandas.DataFrame, a pyarrow.Table or a NumPy array; the target
                is not needed.
            output: a file for the predictions, .parquet or .csv; it is written piece by piece, and completely or not
                at all.
            keep: columns of the data to copy into the predictions, such as a row number.
            overwrite: replace an existing file.

        Returns:
            A pandas.DataFrame, or the path of the file. Columns: the copied ones, `prediction`, and for classes
            `probability_CLASS`; for several numbers `prediction_TARGET`.

        Raises:
            DataError: the data do not fit; the message is one line with the remedy.
            InputError: the file cannot be written, or there are no weights, or they are damaged.
            OSError: the disk is full.
        """
        if output is not None:
            return self.predict_into(data, output, keep=keep, overwrite=overwrite).path
        unseen = NewData(data, self.preprocessing, keep=keep)
        tables = list(predictions(self.network, self.preprocessing, unseen))
        for note in unseen.notes:
            warnings.warn(note, stacklevel=2)
        return needed("pyarrow", "pyarrow").concat_tables(tables).to_pandas()

    def predict_into(
        self, data: Any, output: str | Path, *, keep: Sequence[str] = (), overwrite: bool = False,
        progress: Callable[[int], object] | None = None,
    ) -> Predicted:  # fmt: skip
        """Predict into a file, as `predict` does; `progress` is called with the number of rows so far."""
        path = Path(output)
        check_table(path)
        check_output(path, overwrite, data)
        unseen = NewData(data, self.preprocessing, keep=keep)
        rows = write_tables(path, predictions(self.network, self.preprocessing, unseen), progress)
        return Predicted(path, rows, (*keep, *names_of(self.preprocessing)), unseen.notes)

    def evaluate(self, data: Any = None) -> Evaluation:
        """Metrics of the network, with 95 % confidence intervals.

        Args:
            data: with the target, as for `predict`; None: the test part of the run's data set.

        Raises:
            DataError: the data do not fit, or no longer exist.
            InputError: there are no weights, or they are damaged.
        """
        notes: tuple[str, ...] = ()
        training = next((row.get("training") for row in self._rows() if row["kind"] == "end"), None)
        if data is None:
            own = self.data()
            batches, name = own.test_batches(batch_size_for(own.shape)), _("the test part of {name}", name=own.name)
        else:
            unseen = NewData(data, self.preprocessing, targets=True)
            known = str(self.config.options.get("data", ""))
            if isinstance(data, str | Path) and (str(data) == known or same_file(data, known)):
                notes = (_("these are the data of the training: the network knows most of the samples"),)
            batches, name = _with_targets(unseen), str(data) if isinstance(data, str | Path) else _("the table")
            notes += unseen.notes
        training = float(training) if isinstance(training, int | float) else None
        return evaluate_network(self.folder.name, name, self.network, self.preprocessing, batches, notes, training)

    def export(self, format: str, path: str | Path | None = None, *, overwrite: bool = False) -> Path:
        """Write the network folded, as plain PyTorch layers, and its preprocessing beside it.

        Args:
            format: "onnx" or "safetensors".
            path: of the file; None: named after the run, in this folder.
            overwrite: replace existing files.

        Returns:
            The file.

        Raises:
            DataError: there is no such format, or the file exists.
            InputError: the file cannot be written; there are no weights, they are damaged, or cannot be folded.
            ModuleNotFoundError: a package is not installed; the message says how to install it.
        """
        if format not in FORMATS:
            raise DataError(
                "there is no format {format!r}: choose one of {formats}",
                format=short(format),
                formats=", ".join(FORMATS),
            )
        found = Path(f"{self.folder.resolve().name}{FORMATS[format][0]}") if path is None else Path(path)
        check_output(found, overwrite)
        beside = path_of_preprocessing(found)
        preprocessing, content = self.preprocessing, read_regular(self.folder / PREPROCESSING)
        if not (beside.is_file() and beside.read_bytes() == content):  # it may be that of another format
            check_output(beside, overwrite)
        network = exported(format, self.network, preprocessing)
        write_file(beside, content)
        return write_file(found, network)


@contextmanager
def _readable(path: Path, remedy: str) -> Iterator[None]:
    """Name a file that cannot be read, and the remedy."""
    try:
        yield
    except OSError as error:
        raise DataError(
            "{path} cannot be read: {error}; {remedy}", path=path, error=error.strerror or short(error), remedy=remedy
        ) from error
    except ValueError as error:
        text = short(error, 200)
        if str(path) not in text:
            text = _("{path}: {error}", path=path, error=text)
        raise DataError("{error}; {remedy}", error=text, remedy=remedy) from error


def open_run(folder: str | Path) -> TrainedRun:
    """Open the folder of a run, to use its network.

    Args:
        folder: that `sigmoid-core train` or `fit` has written.

    Raises:
        DataError: the folder does not contain a run.
    """
    return TrainedRun(folder)


def _with_targets(unseen: NewData) -> Iterator[tuple[Tensor, Tensor]]:
    for piece in unseen.pieces():
        assert piece.targets is not None
        yield piece.inputs, piece.targets
