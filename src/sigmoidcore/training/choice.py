"""The choice of the network: its kind by the data, its depth by validation."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import sigmoidcore as sc
from sigmoidcore.training.data import Data, DataError, memory
from sigmoidcore.training.display import Screen, count, outputs_text
from sigmoidcore.training.loop import Training, evaluate
from sigmoidcore.training.networks import ARCHITECTURES, kind_for, network, sizes_for
from sigmoidcore.training.options import Options
from sigmoidcore.training.place import by_first
from sigmoidcore.training.recipe import Recipe, balanced
from sigmoidcore.training.recording import probes
from sigmoidcore.training.runs.folder import load_data
from sigmoidcore.training.runs.state import seed_all
from sigmoidcore.training.session import CtrlC, bad_input

DEPTHS = (3, 10, 30)
"""Depths that a table is tried with."""
TRIAL_STEPS = 300
"""Most steps of a trial."""


@dataclass(frozen=True)
class Choice:
    """The network to train."""

    heading: str  # data and network in a line
    folder: str  # name of the run's folder, without its number
    data: Data  # with inputs as the network expects them
    options: Options  # with the decisions about what was not given
    architecture: str  # of the network
    sizes: Mapping[str, int]  # arguments of the architecture
    notes: tuple[str, ...] = ()  # what the user should know about the decisions


def choose(options: Options, data: Data, ctrl_c: CtrlC) -> Choice:
    """The network that the options describe, for a data set."""
    if options.class_weights and not data.kind.is_class:
        raise DataError("--class-weights is for classes, and the target is a number: leave it out")
    kind = kind_for(data.shape) if options.network == "auto" else options.network
    architecture, depth, notes = ARCHITECTURES[kind], options.depth, ""
    options = replace(options, network=kind)  # type: ignore[arg-type]
    if depth is None:
        depth = architecture.depth
        if kind == "mlp" and len(data.shape) == 1 and data.features != () and data.name != "digits":
            depth, notes = by_first(lambda: _best_depth(options, ctrl_c))
    # The weights, gradients and AdamW state (two numbers per weight) must fit into memory.
    least = depth * (16 * options.width**2 + 10_000)
    if least > memory():
        raise bad_input(
            f"{count(depth, 'layer')} of {options.width:,} need at least {least / 2**30:,.0f} GiB of memory, and this "
            f"machine has {memory() / 2**30:,.0f}: lower --depth or --width"
        )
    try:
        sizes = sizes_for(kind, data.shape, data.outputs, options.width, depth)
    except ValueError as error:
        raise bad_input(f"{data.name}: {error} (--network)") from error
    return Choice(
        f"{data.name}: {_description(kind, sizes)}, {outputs_text(data)}",
        f"{data.file_name}-{'' if kind == 'mlp' else kind + '-'}{depth}x{options.width}",
        data.arranged(architecture.arrange),
        replace(options, depth=depth),
        kind,
        sizes,
        (notes,),
    )


def recipe_of(options: Options, data: Data) -> Recipe:
    """The recipe that the options describe."""
    same = ("epochs", "batch_size", "lr", "seed", "every", "weight_decay", "clip", "patience")
    return Recipe(
        **{name: getattr(options, name) for name in same},
        equalize=options.equalize and options.network != "rnn",  # an Equalizer does not read recurrent cores
        class_weights=balanced(data, data.outputs) if options.class_weights else None,
    )


def _best_depth(options: Options, ctrl_c: CtrlC) -> tuple[int, str]:
    """The depth with the best validation metric, and a note about it; trained on one process, on the CPU."""
    Screen.of_stdout().say(f"trying {', '.join(map(str, DEPTHS))} layers; --depth sets their number")
    data = load_data(options, validation=True).arranged(ARCHITECTURES["mlp"].arrange)
    epochs = max(1, min(options.epochs, TRIAL_STEPS // max(1, data.steps(options.batch_size))))
    recipe = recipe_of(replace(options, epochs=epochs, patience=None), data)
    scores: dict[int, float] = {}
    for depth in DEPTHS:
        seed_all(options.seed)
        model = network("mlp", **sizes_for("mlp", data.shape, data.outputs, options.width, depth)).model
        inputs, targets = probes(data)
        sc.prepare(model, inputs, targets=targets, loss_fn=data.loss_fn, saturation=options.saturation)
        try:
            Training(model, data, recipe, place=None).run(lambda progress: ctrl_c.check())
            scores[depth] = evaluate(model, data, validation=True)
        except FloatingPointError:
            scores[depth] = -math.inf
        ctrl_c.check()
    shown = ", ".join(f"{depth} layers {score:.3g}{data.task.unit}" for depth, score in scores.items())
    return max(scores, key=lambda depth: scores[depth]), f"validation {data.metric_name}: {shown}"


def _description(kind: str, sizes: Mapping[str, Any]) -> str:
    depth = sizes["depth"]
    if kind == "mlp":
        return f"{sizes['in_features']} inputs, {count(depth, 'layer')} of {sizes['width']} sigmoids"
    if kind == "rnn":
        layers = count(depth, "recurrent layer")
        return f"sequences of {count(sizes['features'], 'number')}, {layers} of {sizes['width']} sigmoids"
    image = f"images of {sizes['height']} x {sizes['width']} and {count(sizes['in_channels'], 'channel')}"
    return f"{image}, {count(depth, 'layer')} of {count(sizes['channels'], 'channel')}"
