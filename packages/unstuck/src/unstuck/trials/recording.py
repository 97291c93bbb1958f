"""What a training needs to run again: its last steps, the weights that it began with, and its optimizers."""

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from unstuck.language import _
from unstuck.step import AHEAD_BYTES, Step, copied, state
from unstuck.wording import in_one_line

STEPS = 4
"""Recorded steps that are kept, the latest: a trial cannot merely learn one batch by heart."""
BYTES = 2**28
"""Largest size of what the steps read, and with the weights; with larger weights steps are recorded, and not tried."""
USUAL_RATE = 1e-3
"""Learning rate of Adam where no optimizer is known."""


@dataclass(frozen=True)
class OptimizerSettings:
    """The class of an optimizer and the options of its groups; parameters are named."""

    kind: type[torch.optim.Optimizer]
    groups: tuple[Mapping[str, Any], ...]

    @classmethod
    def of(cls, optimizer: torch.optim.Optimizer, model: nn.Module) -> "OptimizerSettings":
        """Read an optimizer; parameters of other models are left out."""
        names = {id(p): name for name, p in model.named_parameters()}
        groups = (
            {**g, "params": [names[id(p)] for p in g["params"] if id(p) in names]} for g in optimizer.param_groups
        )
        return cls(type(optimizer), tuple(group for group in groups if group["params"]))

    def build(self, values: Mapping[str, Tensor], change: Callable[[dict[str, Any]], None]) -> torch.optim.Optimizer:
        """The same optimizer for copies of the parameters; `change` edits the options of each group."""
        groups = [{**group, "params": [values[name] for name in group["params"]]} for group in self.groups]
        for group in groups:
            change(group)
        make: Callable[..., torch.optim.Optimizer] = self.kind
        return make(groups, **{name: groups[0][name] for name in ("lr",) if name in groups[0]})  # some ask for a rate

    def at_least(self, other: "OptimizerSettings | None") -> "OptimizerSettings":
        """With the larger rate of each group: a schedule may have ended at 0, or begun there."""
        if other is None or len(other.groups) != len(self.groups):
            return self
        pairs = zip(self.groups, other.groups, strict=True)
        groups = ({**a, "lr": max(float(a["lr"]), float(b["lr"]))} if "lr" in a and "lr" in b else a for a, b in pairs)
        return replace(self, groups=tuple(groups))


class NotTriedError(Exception):
    """Why there is no trial."""


class Recording:
    """The latest recorded steps of a training, with what they read, the first weights and the optimizers.

    Whatever fails, the training goes on.

    Attributes:
        steps: oldest first.
        taken: of each, the share of the gradient that the optimizer has seen.
        scales: what a gradient scaler multiplied the loss of each by.
        values: parameters and buffers by name, as they were at the first recorded step.
        open: more optimizers may make the step that was recorded last.
    """

    def __init__(self, model: nn.Module) -> None:
        self.steps: deque[Step] = deque(maxlen=STEPS)
        self.taken: deque[float] = deque(maxlen=STEPS)
        self.scales: deque[float] = deque(maxlen=STEPS)
        self.values: dict[str, Tensor] = {}
        self._model = model
        self._optimizers: dict[int, OptimizerSettings] = {}  # by identity, of the last step
        self.open = self._lost = False  # lost: the last step was not finite, and those before were
        self._failed = self._too_large = self._beside = ""
        self._names: set[str] = set()  # of parameters and buffers

    @property
    def missing(self) -> str:
        """Why it cannot be tried; "" if it can."""
        return (
            self._failed
            or self._too_large
            or self._beside
            or ("" if self.steps else _("no step of an optimizer was recorded"))
        )

    @property
    def optimizers(self) -> tuple[OptimizerSettings, ...]:
        """Those of the last step; Adam if none is known."""
        names = [name for name, parameter in self._model.named_parameters() if parameter.requires_grad]
        adam = OptimizerSettings(torch.optim.Adam, ({"lr": USUAL_RATE, "params": names},))
        return tuple(self._optimizers.values()) or (adam,)

    @property
    def last(self) -> float:
        """The mean loss of the steps in the training itself; nan: not known."""
        if not (self._optimizers and self.steps) or self._lost or any(step.loss is None for step in self.steps):
            return math.nan
        return fmean((step.loss or 0.0) / scale for step, scale in zip(self.steps, self.scales, strict=True))

    @property
    def parameters(self) -> set[str]:
        """The parameters of the model that the last step reads and that are not whole numbers."""
        read = {node.target for node in self.steps[-1].needed() if node.op == "parameter"}
        return {name for name in read if self.values[name].is_floating_point()}

    @property
    def held(self) -> set[str]:
        """The parameters that the optimizers move."""
        return {name for one in self.optimizers for group in one.groups for name in group["params"]}

    def before_step(
        self,
        optimizer: torch.optim.Optimizer,
        take: Callable[[], Step | None],
        others: Callable[[], set[int]],
        taken: Callable[[], float] = lambda: 1.0,
        scale: float = 1.0,
    ) -> None:
        """An optimizer is about to step; one that moves what the open step has moved begins another one.

        Args:
            optimizer: one of the model's.
            take: returns the step that was recorded, or None.
            others: returns the identities of parameters that optimizers of other models move.
            taken: returns the share of the gradient that is left of that of the backward pass, as after clipping.
            scale: what a gradient scaler multiplied the loss by.
        """
        with self._failing():
            before, settings = self._optimizers.get(id(optimizer)), OptimizerSettings.of(optimizer, self._model)
            step = None if self.open or self._failed else take()
            if self.open and self.held.isdisjoint(name for group in settings.groups for name in group["params"]):
                self._optimizers[id(optimizer)] = settings
            else:
                self.open = False  # these parameters have moved: it is another step
            if step is not None and step.losses:
                self._lost = bool(self.steps) and not math.isfinite(step.loss or 0.0)
            if step is not None and step.losses and not self._lost:  # on a lost one nothing can be tried
                moved = others()
                if any(id(node.value) in moved for node in step.nodes if node.op == "constant"):
                    self._beside = _("another network trains beside it, which the loss reads")
                self.keep(step, scale)
                self.taken.append(min(1.0, taken()))
                self._optimizers, self.open = {id(optimizer): settings.at_least(before)}, True
            elif step is not None and not (step.losses or self.values):  # a closure computes the loss within the step
                self._copy_weights(state(self._model))

    def keep(self, step: Step, scale: float = 1.0) -> None:
        """Keep a step with copies of what it reads, because the caller may change it; `scale` multiplies its loss."""
        with self._failing(), torch.inference_mode(False):
            step.trim(AHEAD_BYTES)
            if len(self.steps) == STEPS:
                self.steps[0].release()
            model = state(self._model)
            if self._names and self._names != model.keys():  # another training: an adapter was added
                self._clear()
            self._names = set(model)
            read = [
                node.value
                for one in (*self.steps, step)
                for node in (*one.before, *one.nodes)
                if node.value is not None
            ]
            data, weights = (sum(tensor.nbytes for tensor in of) for of in (read, model.values()))
            too_large = _("weights and batches are larger than {size} MiB", size=BYTES >> 20)
            if data > BYTES:
                raise NotTriedError(too_large)
            self._too_large = too_large if data + weights > BYTES else ""
            if not (self._too_large or self.values):
                self._copy_weights(model)
            for node in (*step.before, *step.nodes):
                node.value = None if node.value is None else copied(node.value)
            self.steps.append(step)
            self.scales.append(scale)

    def _copy_weights(self, model: Mapping[str, Tensor]) -> None:
        if sum(value.nbytes for value in model.values()) <= BYTES:
            self._names, self.values = set(model), {name: copied(value) for name, value in model.items()}

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """Whatever fails inside is why there is no trial, such as no memory for copies."""
        try:
            yield
        except Exception as error:
            self._failed = str(error) if isinstance(error, NotTriedError) else in_one_line(error)
            self._clear()

    def _clear(self) -> None:
        for kept in (self.steps, self.taken, self.scales):
            kept.clear()
        self.values = {}
