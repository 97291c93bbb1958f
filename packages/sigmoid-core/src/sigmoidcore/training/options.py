"""The options of a training, defined once for the command line, `config.toml` and `fit`."""

import contextlib
import dataclasses
import difflib
import math
import numbers
import os
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, Self, get_args, get_origin, get_type_hints

import numpy as np

from sigmoidcore.training.data import ARRAYS, BUILT_IN, TABLE_FILES, InputError
from unstuck.language import _, edited

LARGEST = 2**31 - 1
"""Upper limit of counts: steps, samples, neurons."""
POSITIVE, BELOW_1 = math.nextafter(0, 1), math.nextafter(1, 0)
"""The smallest number above 0, and the largest below 1."""


def _option(
    default: Any, help: str, *, metavar: str = "", shown: str = "", low: float = 1, high: float = LARGEST,
    usual: str = "",
) -> Any:  # fmt: skip
    """A field: help text, the default in words, the range of a number, and a usual value for the error message."""
    metadata = {"help": help, "metavar": metavar, "shown": shown, "low": low, "high": high, "usual": usual}
    return field(default=default, metadata=metadata)


def _share(help: str, shown: str, low: float = POSITIVE) -> Any:
    return _option(None, help, metavar="SHARE", shown=shown, low=low, high=BELOW_1, usual="0.2")


@dataclass(frozen=True, kw_only=True)
class Options:
    """All options that decide the result of a training; `Options.parse` makes one from texts and numbers.

    Attributes:
        data: and the others: see the help text of each field.
    """

    data: str = _option(
        "digits",
        f"Training data: {', '.join(BUILT_IN)}; a file ({', '.join((*TABLE_FILES, *ARRAYS))}); or a folder of "
        "images (one folder per class) or of Parquet files.",
        metavar="SOURCE",
    )
    target: tuple[str, ...] = _option(
        (), "Column to predict; give it several times for several numeric columns.", metavar="COLUMN"
    )
    drop: tuple[str, ...] = _option((), "Column to ignore; may be given several times.", metavar="COLUMN")
    kind: Literal["class", "number"] | None = _option(
        None, "Kind of the target, if it is detected wrongly.", shown="detected"
    )
    test_size: float | None = _share("Fraction of the samples held out for testing.", "0.2, or the set's own split")
    validation_size: float | None = _share(
        "Fraction of the training samples held out for validation: for --patience, the best epoch and the choice of "
        "options. 0 holds out none.",
        "0.1; digits none",
        low=0,
    )
    network: Literal["mlp", "conv", "rnn", "auto"] = _option(
        "mlp", "Fully connected layers, convolutions for images, or recurrent layers for sequences."
    )
    depth: int | None = _option(
        None, "Hidden layers.", metavar="N", shown="images 100, conv 20, rnn 1, tables the best of 3, 10, 30"
    )
    width: int = _option(64, "Neurons of a hidden layer, or channels of a convolution.", metavar="N")
    epochs: int = _option(10, "Passes over the training samples.", metavar="N")
    batch_size: int = _option(100, "Samples per step.", metavar="N")
    lr: float = _option(
        0.03, "Learning rate; the depth rule divides it by layer.", metavar="RATE", low=POSITIVE, high=1e38,
        usual="0.03",
    )  # fmt: skip
    seed: int = _option(
        0, "Seed for the split, the weights and the order of samples.", metavar="N", low=0, high=2**63 - 1
    )
    saturation: float = _option(
        0.5, "Saturation level of the cores: 0.5 is nearly linear, 3 strongly non-linear.", metavar="LEVEL",
        low=POSITIVE, high=100, usual="0.5",
    )  # fmt: skip
    equalize: bool = _option(True, "Correct slopes during training with the Equalizer.")
    every: int | Literal["auto"] = _option("auto", "Steps between two measurements of the Equalizer.", metavar="STEPS")
    weight_decay: float | None = _option(
        None, "Weight decay of AdamW.", metavar="DECAY", shown="images 0, tables the best of four", low=0, high=1e38
    )
    clip: float | None = _option(
        None, "Largest norm of the gradient; larger gradients are scaled down.", metavar="NORM", shown="no clipping",
        low=POSITIVE, high=1e38, usual="1",
    )  # fmt: skip
    patience: int | None = _option(
        None,
        "Stop after this many epochs without a better validation metric, and keep the weights of the best epoch.",
        metavar="EPOCHS",
        shown="all epochs",
    )
    class_weights: bool | None = _option(
        None,
        "Weight classes inversely to their number of samples.",
        shown="images no, tables of uneven classes if it helps",
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = _option("auto", "Device; auto: a GPU if there is one.")
    threads: int = _option(1, "CPU threads; more than one helps only wide layers.", metavar="N", high=1024)
    save_every: int | Literal["epoch"] = _option("epoch", "Steps between two checkpoints, or 'epoch'.", metavar="STEPS")

    @classmethod
    def parse(cls, given: Mapping[str, Any], *, command: str = "train", shown: Mapping[str, str] = {}) -> Self:
        """Options from values by name; None counts as not given, and numbers may be texts.

        Errors refer to the help of `command`. `shown` has the names of options that have another name there.

        Raises:
            InputError: there is no such option, or its value is invalid.
        """
        fields = {option.name: option for option in dataclasses.fields(cls)}
        for name in given:
            if name not in fields:
                close = difflib.get_close_matches(name, fields, n=1)
                hint = _("; did you mean {name}?", name=flag(close[0])) if close else ""
                raise InputError(
                    "No such option: {name}{hint} (see sigmoid-core train --help)", name=flag(name[:60]), hint=hint
                )
        values = {
            name: _parsed(fields[name], value, flag(shown.get(name, name)), command)
            for name, value in given.items()
            if value is not None
        }
        options = cls(**values)
        return dataclasses.replace(options, data=absolute(options.data))

    def to_dict(self) -> dict[str, Any]:
        """The values by name, without those that are None, as TOML can hold them."""
        values = {name: value for name, value in vars(self).items() if value is not None}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def absolute(data: str) -> str:
    """The name of a built-in data set, or an absolute path, so that a run can be resumed from any folder."""
    return os.path.abspath(data) if data not in BUILT_IN and "\0" not in data and os.path.exists(data) else data


def flag(name: str) -> str:
    """An option as it is typed."""
    return f"--{name.replace('_', '-')}"


def types_of(name: str) -> tuple[Any, tuple[str, ...]]:
    """The type of an option (int, float, bool, str or tuple), and the words that it accepts."""
    kinds: list[Any] = []
    words: tuple[str, ...] = ()
    hint = get_type_hints(Options)[name]
    for kind in get_args(hint) if get_origin(hint) in (types.UnionType, typing.Union) else (hint,):
        if get_origin(kind) is Literal:
            words = get_args(kind)
        elif kind is not types.NoneType:
            kinds.append(get_origin(kind) or kind)
    return (kinds[0] if kinds else str), words


def default_text(option: "dataclasses.Field[Any]") -> str:
    """An option's default in words."""
    if option.metadata["shown"] or option.default in (None, ()):
        return str(option.metadata["shown"])
    if isinstance(option.default, bool):
        return "yes" if option.default else "no"
    return str(option.default)


def _parsed(option: "dataclasses.Field[Any]", value: Any, name: str, command: str) -> Any:
    kind, words = types_of(option.name)
    try:
        if words and isinstance(value, str) and (value in words or kind is str):
            if value not in words:
                known = ", ".join(map(repr, words))
                raise ValueError(_("{value!r} is not one of {words}.", value=value[:40], words=known))
            return value
        found = _PARSERS[kind](value)
        if kind in (int, float):
            _check_range(found, option.metadata)
    except ValueError as error:
        also = _(" or {word!r}", word=words[0]) if words and kind is not str else ""
        values = {"reason": edited(str(error), lambda text: text.rstrip(".。")), "also": also}
        raise InputError(
            "Invalid value for '{name}': {reason}{also}. (see sigmoid-core {command} --help)",
            name=name,
            command=command,
            **values,
        ) from error
    return found


def _check_range(value: float, metadata: Mapping[str, Any]) -> None:
    low, high, usual = (metadata[key] for key in ("low", "high", "usual"))
    if not low <= value <= high:
        limits = _("above 0") if low == POSITIVE else _("from {low:,}", low=low)
        limits += _(" and below 1") if high == BELOW_1 else _(" to {high:,}", high=high) if high < 1e38 else ""
        hint = _("; {value} is a usual value", value=usual) if usual else ""
        raise ValueError(_("{value} is not {limits}{hint}", value=str(value)[:40], limits=limits, hint=hint))


def _numeric(kind: type, value: Any) -> Any:
    if not isinstance(value, bool) and isinstance(value, str | (numbers.Integral if kind is int else numbers.Real)):
        with contextlib.suppress(ValueError, OverflowError):
            return kind(value)
    if kind is int:
        raise ValueError(_("{value} is not a whole number", value=_short(value)))
    raise ValueError(_("{value} is not a number", value=_short(value)))


def _boolean(value: Any) -> bool:
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise ValueError(_("{value} is neither True nor False", value=_short(value)))


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise ValueError(_("{value} is not a text", value=_short(value)))


def _texts(value: Any) -> tuple[str, ...]:
    values = value if isinstance(value, list | tuple) else [value]
    return tuple(_text(item) for item in values)


def _short(value: Any) -> str:
    return f"{value[:40]!r}" if isinstance(value, str) else str(value)[:40]


_PARSERS: Mapping[type, Callable[[Any], Any]] = {
    int: partial(_numeric, int), float: partial(_numeric, float), bool: _boolean, tuple: _texts, str: _text,
}  # fmt: skip
