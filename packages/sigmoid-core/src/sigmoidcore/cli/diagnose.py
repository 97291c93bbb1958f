"""`sigmoid-core diagnose`: measures a network on one batch, reports what is wrong, and exits with a code for CI."""

import contextlib
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.text import Text
from torch import nn

import sigmoidcore as sc
from sigmoidcore.cli.common import print_json
from sigmoidcore.training.data import InputError
from sigmoidcore.training.runs.folder import data_of
from sigmoidcore.training.runs.weights import WEIGHTS
from sigmoidcore.training.use import check_output, open_run
from sigmoidcore.training.user_code import dotted, exception_text, raised_here, reported_as, users_code, with_article
from unstuck.cli.conditions import fail_on_option, fails
from unstuck.diagnosis import Diagnosis
from unstuck.language import _, edited
from unstuck.language.terminal import printable

KEYS = ("model", "inputs", "targets", "loss_fn")
TARGET = typer.Argument(
    metavar="TARGET",
    show_default=False,
    help="Your function as package.module:function, imported from this folder and executed; it returns (model, inputs, "
    "targets, loss_fn) or (model, inputs). Or the folder of a run of `sigmoid-core train`.",
)
JSON = typer.Option("--json", metavar="FILE", help="Write the diagnosis as JSON; - is standard output.")
HTML = typer.Option("--html", metavar="FILE", help="Write one page that needs no network connection.")
TRAINING = typer.Option("--training", help="Run the model in training mode, with dropout; the model is not changed.")


def diagnose(
    target: Annotated[str, TARGET],
    json: Annotated[str | None, JSON] = None,
    html: Annotated[Path | None, HTML] = None,
    training: Annotated[bool, TRAINING] = False,
    fail_on: Annotated[list[str] | None, fail_on_option("error")] = None,
) -> int:
    """Find where a network loses its gradient, on one batch; with an exit code for CI."""
    if str(html) == "-":
        raise InputError("--html - would mix the page with the report: give the name of a file, such as report.html")
    files = [Path(file) for file in (html, json) if file is not None and str(file) != "-"]
    for file in files:
        check_output(file, overwrite=True)
    with Console(stderr=True, highlight=False).status(Text(_("measuring {target}", target=printable(target)))):
        diagnosis = _measured(target, training)
        if html is not None:
            diagnosis.to_html(html)
        if json not in (None, "-"):
            diagnosis.to_json(json)
    if json == "-":
        print_json(diagnosis.to_json())
    else:
        print(diagnosis)
        for file in files:
            print(printable(_("written: {path}", path=file)))
    return int(fails(diagnosis.findings, fail_on or ["error"]))


def _measured(target: str, training: bool) -> Diagnosis:
    subject = _subject(target)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # for what the model prints
            diagnosis = sc.diagnose(**subject, training=training)
    except Exception as error:
        ours = isinstance(error, ValueError | TypeError) and raised_here(error)
        reason = str(error) if ours else _("measuring raised {error}", error=exception_text(error))
        reason = _("; ").join([reason, *getattr(error, "__notes__", ())])
        reason = edited(reason, lambda text: text.replace("training=True runs", "--training runs"))
        raise InputError("{target}: {reason}", target=target, reason=reason) from error
    if not diagnosis.measurement.layers and not diagnosis.findings:
        why = diagnosis.measurement.notes or (_("it calls nothing that has weights or is an activation"),)
        raise InputError("{target}: no layers of the model were seen: {why}", target=target, why=_("; ").join(why))
    return diagnosis


def _subject(target: str) -> dict[str, Any]:
    """The arguments of `diagnose`: from a run's folder, or from `package.module:function`, which is run."""
    path = Path(target)
    if path.is_dir():
        return _of_run(path)
    module, _colon, name = target.partition(":")
    if module and name:
        return _of_function(target)
    if path.exists():
        example = f"{dotted(path)}:make" if path.suffix == ".py" else "package.module:make"
        raise InputError(
            "{target} is a file: give the folder of a run, or a function of a module as {example}",
            target=target,
            example=example,
        )
    raise InputError(
        "{target} is not the folder of a run: give one, or a function of yours as package.module:make", target=target
    )


def _wanted() -> str:
    return _("return (model, inputs, targets, loss_fn), or (model, inputs), or a dict with these keys")


def _of_function(target: str) -> dict[str, Any]:
    with users_code(target) as make:
        if isinstance(make, nn.Module):
            raise InputError(
                "{target} is a model: give a function that makes a model and a batch; let it {wanted}",
                target=target,
                wanted=_wanted(),
            )
        if not callable(make):
            raise InputError(
                "{target} is {what}, not a function: give a function; let it {wanted}",
                target=target,
                what=with_article(make),
                wanted=_wanted(),
            )
        try:
            inspect.signature(make).bind()
        except TypeError as error:
            raise InputError(
                "{target} is called without arguments: {error}; give a function without any", target=target, error=error
            ) from error
        torch.manual_seed(0)  # random weights are the same every time
        with reported_as(target):
            made = make()
    return _checked(target, made)


def _checked(target: str, made: Any) -> dict[str, Any]:
    """What a user's function returned, by name."""
    if isinstance(made, tuple | list):
        if len(made) not in (2, 4):
            raise InputError(
                "{target} returned {count} values: {wanted}", target=target, count=len(made), wanted=_wanted()
            )
        made = dict(zip(KEYS, made, strict=False))
    if not isinstance(made, Mapping):
        raise InputError("{target} returned {what}: {wanted}", target=target, what=with_article(made), wanted=_wanted())
    wrong = [_("the unknown key {key!r}", key=key) for key in made if key not in KEYS]
    wrong += [_("no {key!r}", key=key) for key in KEYS[:2] if key not in made]
    if wrong:
        raise InputError(
            "{target} returned a dict with {wrong}: {wanted}", target=target, wrong=wrong[0], wanted=_wanted()
        )
    return dict(made)


def _of_run(folder: Path) -> dict[str, Any]:
    run = open_run(folder)
    network = run.network
    data = data_of(run.config.options).arranged(network.arranged)
    features = network.sizes.get("in_features")
    if features is not None and (features,) != data.shape:
        raise InputError(
            "{folder} is a network with {features} inputs, but {name} has {shape}: the weights belong to another run",
            folder=folder / WEIGHTS,
            features=features,
            name=data.name,
            shape=data.shape[0],
        )
    return dict(zip(KEYS, (network.model, *data.probes(), data.loss_fn), strict=True))
