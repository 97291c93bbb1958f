"""What a training needs to run again: its last steps, the weights that it began with, and its optimizer."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from unstuck.language import _
from unstuck.measure.measurement import Subject
from unstuck.step import Step, state
from unstuck.wording import in_one_line

STEPS = 4
"""Recorded steps that are kept, the latest: a trial cannot merely learn one batch by heart."""
BYTES = 2**28
"""Largest size of the weights, and of what each step reads, together; larger trainings are not tried."""
USUAL_RATE = 1e-3
"""Learning rate of Adam where no optimizer is known."""


@dataclass(frozen=True)
class OptimizerSettings:
    """The class of an optimizer and the options of its groups; parameters are named."""

    kind: type[torch.optim.Optimizer]
    groups: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def of(cls, optimizer: torch.optim.Optimizer, model: nn.Module) -> "OptimizerSettings":
        """Read an optimizer; parameters of other models are left out."""
        names, groups = {id(p): name for name, p in model.named_parameters()}, []
        for group in optimizer.param_groups:
            own = [names[id(p)] for p in group["params"] if id(p) in names]
            groups.append({**group, "params": own})
        return cls(type(optimizer), tuple(group for group in groups if group["params"]))

    def build(self, values: Mapping[str, Tensor], change: Callable[[dict[str, Any]], None]) -> torch.optim.Optimizer:
        """The same optimizer for copies of the parameters; `change` edits the options of each group."""
        groups = [{**group, "params": [values[name] for name in group["params"]]} for group in self.groups]
        for group in groups:
            change(group)
        make: Callable[..., torch.optim.Optimizer] = self.kind
        try:
            return make(groups)
        except TypeError:  # it asks for a rate
            return make(groups, lr=groups[0]["lr"])

    def at_least(self, other: "OptimizerSettings | None") -> "OptimizerSettings":
        """With the larger rate of each group: a schedule may have ended at 0, or begun there."""
        if other is None or len(other.groups) != len(self.groups):
            return self
        pairs = zip(self.groups, other.groups, strict=True)
        groups = ({**a, "lr": max(float(a["lr"]), float(b["lr"]))} if "lr" in a and "lr" in b else a for a, b in pairs)
        return OptimizerSettings(self.kind, tuple(groups))


@dataclass
class Recording:
    """Recorded steps of a training, oldest first.

    Attributes:
        steps: with copies of what they read.
        values: parameters and buffers by name, as they were when the recording began.
        optimizers: of the training.
        missing: why it cannot be tried; "" if it can.
        left: the share of the first loss that the training itself left; nan: not known.
    """

    steps: list[Step] = field(default_factory=list)
    values: dict[str, Tensor] = field(default_factory=dict)
    optimizers: tuple[OptimizerSettings, ...] = ()
    missing: str = ""
    left: float = math.nan

    @property
    def parameters(self) -> set[str]:
        """The parameters of the model that the last step reads and that are not whole numbers."""
        read = {node.target for node in self.steps[-1].needed() if node.op == "parameter"}
        return {name for name in read if self.values[name].is_floating_point()}

    @property
    def held(self) -> set[str]:
        """The parameters that the optimizers move."""
        return {name for one in self.optimizers for group in one.groups for name in group["params"]}

    @property
    def devices(self) -> list[int]:
        """The GPUs on which random numbers may be drawn."""
        return list({value.device.index for value in self.values.values() if value.device.type == "cuda"})


class NotTriedError(Exception):
    """Why there is no trial."""


def reason(error: Exception) -> str:
    """An error in words."""
    return str(error) if isinstance(error, NotTriedError) else in_one_line(error)


def recording_of(subject: Subject, step: Step) -> Recording:
    """Copies of a step on the batch of a subject, and of its weights, to be trained with Adam."""
    model = subject.model
    try:
        with torch.inference_mode(False):
            values = copies(model)
            hold(step, BYTES - size_of(values.values()))
    except Exception as error:  # of whatever kind: a diagnosis does not fail for a trial
        return Recording(missing=reason(error))
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    adam = OptimizerSettings(torch.optim.Adam, ({"lr": USUAL_RATE, "params": names},))
    return Recording([step], values, (adam,))


def copies(model: nn.Module) -> dict[str, Tensor]:
    """Copies of parameters and buffers, which train as these do."""
    named = state(model)
    check_size(named.values(), BYTES)
    return {name: value.detach().clone().requires_grad_(value.requires_grad) for name, value in named.items()}


def hold(step: Step, room: int) -> None:
    """Copy what a step reads, because the caller may change it."""
    given = [(node, node.value) for node in step.nodes if node.value is not None]
    check_size((value for _node, value in given), room)
    for node, value in given:
        node.value = value.detach().clone().requires_grad_(value.requires_grad)


def check_size(tensors: Iterable[Tensor], most: int) -> None:
    """Raise an error if tensors are too large."""
    if size_of(tensors) > most:
        raise NotTriedError(_("weights and batches are larger than {size} MiB", size=BYTES >> 20))


def size_of(tensors: Any) -> int:
    """Bytes of tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class StepKeeper:
    """Keeps the latest recorded steps of a training, with what they read, the first weights and the optimizers.

    Whatever fails, the training goes on.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._steps: deque[Step] = deque(maxlen=STEPS)
        self._values: dict[str, Tensor] = {}
        self._optimizers: dict[int, OptimizerSettings] = {}  # by identity, of the last step
        self._first: Tensor | None = None  # the first loss that was recorded
        self._open = False  # more optimizers may step
        self._missing = ""

    def before_forward(self) -> None:
        """A forward pass begins: the last step is over."""
        self._open = False

    def before_step(
        self, optimizer: torch.optim.Optimizer, take: Callable[[], Step | None], others: Callable[[], set[int]]
    ) -> None:
        """An optimizer is about to step.

        Args:
            optimizer: one of the model's.
            take: returns the step that was recorded, or None.
            others: returns the identities of parameters that optimizers of other models move.
        """
        if self._missing:
            return
        try:
            if self._open and id(optimizer) not in self._optimizers:
                self._optimizers[id(optimizer)] = OptimizerSettings.of(optimizer, self._model)
            step = None if self._open else take()
            if step is not None and step.losses:
                self._keep(step, others())
                settings = OptimizerSettings.of(optimizer, self._model).at_least(self._optimizers.get(id(optimizer)))
                self._optimizers, self._open = {id(optimizer): settings}, True
        except Exception as error:  # such as no memory for copies
            self._missing = reason(error)
            self._steps.clear()
            self._values = {}

    def _keep(self, step: Step, others: set[int]) -> None:
        if any(id(node.value) in others for node in step.nodes if node.op == "constant"):
            raise NotTriedError(_("another network trains beside it, which the loss reads"))
        self._values = self._values or copies(self._model)
        kept = [value for one in self._steps for node in one.nodes if (value := node.value) is not None]
        if len(self._steps) == STEPS:
            self._steps[0].release()
        hold(step, BYTES - size_of(self._values.values()) - size_of(kept))
        self._steps.append(step)
        if self._first is None:
            self._first = torch.stack([value.float() for value in step.values]).sum()

    @property
    def recording(self) -> Recording:
        """What was recorded."""
        missing = self._missing or ("" if self._steps else _("no step of an optimizer was recorded"))
        left = math.nan
        if self._steps and self._first is not None:
            last = [step.loss or 0.0 for step in self._steps]
            left = math.fsum(last) / len(last) / first if (first := float(self._first)) > 0 else math.nan
        return Recording(list(self._steps), self._values, tuple(self._optimizers.values()), missing, left)
