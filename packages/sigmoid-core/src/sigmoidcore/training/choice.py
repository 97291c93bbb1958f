"""The choice of what the user has not decided: for tables, depth, weight decay and class weights, by validation."""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

import sigmoidcore as sc
from sigmoidcore.training.data import Data, DataError, InputError, memory, needed, uneven
from sigmoidcore.training.display import Screen, outputs_text
from sigmoidcore.training.loop import Training, outputs_and_targets
from sigmoidcore.training.networks import ARCHITECTURES, kind_for, network, sizes_for
from sigmoidcore.training.options import Options
from sigmoidcore.training.place import Place
from sigmoidcore.training.recipe import Recipe, balanced, hold_then_fall
from sigmoidcore.training.runs.state import seed_all
from sigmoidcore.training.session import CtrlC
from sigmoidcore.language import _
from unstuck.wording import counted

T = TypeVar("T")
DEPTHS = (3, 10, 30)
DECAYS = (8.0, 2.0, 0.4, 0.08)
"""Depths and weight decays that a table is tried with, the simplest network first."""
USUAL_DECAY = 0.4
"""The decay with which depths are tried."""
WITHOUT_TRIALS = 10
"""Depth for a table without a validation part."""
TRIAL_STEPS = 300
"""Most steps of a trial."""


@dataclass(frozen=True)
class Choice:
    """The network to train."""

    heading: str  # data and network in a line
    folder: str  # name of the run's folder, without its number
    data: Data  # with inputs as the network expects them
    options: Options  # with the decisions about what was not given
    sizes: Mapping[str, int]  # arguments of the architecture `options.network`
    notes: tuple[str, ...] = ()  # what the user should know about the decisions


def choose(options: Options, data: Data, ctrl_c: CtrlC, place: Place) -> Choice:
    """The network that the options describe, for a data set; all processes of a place make the same choice."""
    if options.class_weights and not data.kind.is_class:
        raise DataError("--class-weights is for classes, and the target is a number: leave it out")
    if options.patience and data.validation is None:
        raise DataError("--patience needs a validation part: give a larger --validation-size, or leave --patience out")
    kind = kind_for(data.shape) if options.network == "auto" else options.network
    notes: tuple[str, ...] = ()
    data = data.arranged(ARCHITECTURES[kind].arrange)
    is_table = kind == "mlp" and data.features != ()
    _check_memory(options.depth or (max(DEPTHS) if is_table else ARCHITECTURES[kind].depth), options.width)
    if is_table and data.validation is not None:
        options, notes = _tried(options, data, ctrl_c, place)
    depth = options.depth or (WITHOUT_TRIALS if is_table else ARCHITECTURES[kind].depth)
    decay, weighted = options.weight_decay or 0.0, bool(options.class_weights)
    options = replace(options, network=kind, depth=depth, weight_decay=decay, class_weights=weighted)  # type: ignore[arg-type]
    with InputError.replacing("{name}: {error} (--network)", ValueError, name=data.name):
        sizes = sizes_for(kind, data.shape, data.outputs, options.width, depth)
    return Choice(
        _(
            "{data}: {network}, {outputs}",
            data=data.name,
            network=_description(kind, sizes),
            outputs=outputs_text(data),
        ),
        f"{data.file_name}-{'' if kind == 'mlp' else kind + '-'}{depth}x{options.width}",
        data,
        options,
        sizes,
        notes,
    )


def _check_memory(depth: int, width: int) -> None:
    """The weights, gradients and AdamW state (two numbers per weight) must fit into memory."""
    least = depth * (16 * width**2 + 10_000)
    if least > memory():
        raise InputError(
            "{count} of {width:,} need at least {least:,.0f} GiB of memory, and this machine has "
            "{memory:,.0f}: lower --depth or --width",
            count=counted(depth, "layer"),
            width=width,
            least=least / 2**30,
            memory=memory() / 2**30,
        )


def recipe_of(options: Options, data: Data) -> Recipe:
    """The recipe that the options describe."""
    same = ("epochs", "batch_size", "lr", "seed", "every", "weight_decay", "clip", "patience")
    return Recipe(
        **{name: getattr(options, name) for name in same},
        equalize=options.equalize and options.network != "rnn",  # an Equalizer does not read recurrent cores
        class_weights=balanced(data.class_counts) if options.class_weights else None,
    )


def _tried(options: Options, data: Data, ctrl_c: CtrlC, place: Place) -> tuple[Options, tuple[str, ...]]:
    """The options with the best trials, and notes about them."""
    undecided = options.depth is None or options.weight_decay is None
    weighing = options.class_weights is None and uneven(data.class_counts)
    if place.rank == 0 and (undecided or weighing):
        Screen.of_stdout().say(_("choosing by short trials; --depth, --weight-decay and --no-class-weights skip them"))
    trials, notes = _Trials(options, data, ctrl_c, place), []
    decays = DECAYS if options.weight_decay is None else (options.weight_decay,)
    weighted = bool(options.class_weights)
    depth, decay = options.depth, USUAL_DECAY if options.weight_decay is None else options.weight_decay
    if depth is None:
        by_depth = {each: trials.of(each, decay, weighted)[0] for each in DEPTHS}
        depth = simplest(by_depth)
        values = {"layers": counted(depth, "layer"), "losses": _listed(by_depth)}
        notes.append(_("{layers}, by the validation loss: {losses}", **values))
    if weighing:
        without, with_weights = (trials.of(depth, decay, each)[1] for each in (False, True))
        weighted = with_weights > without
        scores = {"with_them": f"{with_weights:.3f}", "without": f"{without:.3f}"}
        used = _("class weights, by the validation macro-F1: with them {with_them}, without {without}", **scores)
        unused = _("no class weights, by the validation macro-F1: with them {with_them}, without {without}", **scores)
        notes.append(used if weighted else unused)
    if len(decays) > 1:
        by_decay = {each: trials.of(depth, each, weighted)[0] for each in decays}
        decay = simplest(by_decay)
        values = {"decay": f"{decay:g}", "losses": _listed(by_decay)}
        notes.append(_("weight decay {decay}, by the validation loss: {losses}", **values))
        decay = float(f"{decay * trials.share:.3g}")
    return replace(options, depth=depth, weight_decay=decay, class_weights=weighted), tuple(notes)


class _Trials:
    """Short trainings of a network of a table, each measured on the validation part; none is made twice.

    A trial may have fewer steps than the training. The best time scale of AdamW is a fraction of the training (Wang and
    Aitchison 2024, arXiv 2405.13698), so the decay of the training is that of the trial times `share`.
    """

    def __init__(self, options: Options, data: Data, ctrl_c: CtrlC, place: Place) -> None:
        self.options, self.data, self.ctrl_c, self.place = options, data, ctrl_c, place
        steps = data.steps(options.batch_size)
        self.steps = min(TRIAL_STEPS, options.epochs * steps)
        self.share = self.steps / (options.epochs * steps)
        self.epochs = -(-self.steps // steps)
        self.of = cache(self._measured)

    def _measured(self, depth: int, decay: float, weighted: bool) -> tuple[Tensor, float]:
        """Losses [samples] and macro-F1 on the validation part; losses of a training that diverges are infinite."""
        options, data = self.options, self.data
        seed_all(options.seed)
        model = network("mlp", **sizes_for("mlp", data.shape, data.outputs, options.width, depth)).model
        inputs, targets = data.probes()
        sc.prepare(model, inputs, targets=targets, loss_fn=data.loss_fn, saturation=options.saturation)
        shortened = replace(options, epochs=self.epochs, weight_decay=decay, class_weights=weighted, patience=None)
        recipe = replace(recipe_of(shortened, data), schedule=lambda step, _: hold_then_fall(step, self.steps))
        training = Training(model, data, recipe, place=self.place)
        try:
            with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # of a network that is not kept
                training.run(asked=lambda: self.ctrl_c.asked or training.step + 1 >= self.steps)
        except FloatingPointError:
            return torch.full((len(data.validation or ()),), torch.inf), 0.0
        self.ctrl_c.check()
        outputs, targets = outputs_and_targets(model, data, self.place, validation=True)
        if not data.kind.is_class:
            return nn.functional.mse_loss(outputs, targets, reduction="none").mean(1), 0.0
        losses = nn.functional.cross_entropy(outputs, targets, reduction="none")
        if recipe.class_weights is not None:
            weights = recipe.class_weights[targets]
            losses = losses * weights / weights.mean()
        f1_score = needed("sklearn.metrics", "scikit-learn").f1_score
        return losses, float(f1_score(targets, outputs.argmax(1), average="macro", zero_division=0))


def simplest(losses: Mapping[T, Tensor]) -> T:
    """The first whose mean loss is above the smallest by at most one standard error of the difference.

    Source: the rule of Breiman et al. (1984), Classification and Regression Trees, section 3.4.3.
    """
    finite = {value: each.double().nan_to_num(torch.inf) for value, each in losses.items()}
    best = min(finite.values(), key=lambda each: float(each.mean()))

    def is_as_good(each: Tensor) -> bool:
        difference = each - best
        return bool(difference.mean() <= difference.std(correction=0) / math.sqrt(len(difference)))

    return next((value for value, each in finite.items() if is_as_good(each)), next(iter(finite)))


def _listed(losses: Mapping[Any, Tensor]) -> str:
    return ", ".join(f"{value:g}: {float(each.mean()):.3g}" for value, each in losses.items())


def _description(kind: str, sizes: Mapping[str, Any]) -> str:
    depth = sizes["depth"]
    if kind == "mlp":
        layers = {"layers": counted(depth, "layer"), "width": sizes["width"]}
        return _("{inputs} inputs, {layers} of {width} sigmoids", inputs=sizes["in_features"], **layers)
    if kind == "rnn":
        layers = {"layers": counted(depth, "recurrent layer"), "width": sizes["width"]}
        return _(
            "sequences of {numbers}, {layers} of {width} sigmoids",
            numbers=counted(sizes["features"], "number"),
            **layers,
        )
    return _(
        "images of {height} x {width} and {channels}, {layers} of {hidden}",
        height=sizes["height"], width=sizes["width"], channels=counted(sizes["in_channels"], "channel"),
        layers=counted(depth, "layer"), hidden=counted(sizes["channels"], "channel"),
    )  # fmt: skip
