"""What a training needs to run again: its last steps, the weights that it began with, and its optimizer."""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from unstuck.language import _
from unstuck.measure.measurement import Subject
from unstuck.measure.one_batch import loss_in, passes
from unstuck.step import Step, recorded

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
        return make(groups)


@dataclass
class Recording:
    """Recorded steps of a training, oldest first.

    Attributes:
        steps: with copies of what they read.
        values: parameters and buffers by name, as they were when the recording began.
        optimizers: of the training.
        missing: why it cannot be tried; "" if it can.
    """

    steps: list[Step] = field(default_factory=list)
    values: dict[str, Tensor] = field(default_factory=dict)
    optimizers: tuple[OptimizerSettings, ...] = ()
    missing: str = ""

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


def recording_of(subject: Subject) -> Recording:
    """Record one step on the batch of a subject, which has a loss function; nothing of the model changes."""
    model = subject.model
    values = copies(model)
    if values is None:
        return Recording(missing=too_large())
    with passes(subject) as batch, recorded(model) as step:
        taken = step(loss_in(batch))
    if not hold(taken):
        return Recording(missing=too_large())
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    adam = OptimizerSettings(torch.optim.Adam, ({"lr": USUAL_RATE, "params": names},))
    return Recording([taken], values, (adam,))


def copies(model: nn.Module) -> dict[str, Tensor] | None:
    """Copies of parameters and buffers, which train as these do; None if they are too large."""
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    if size_of(named.values()) > BYTES:
        return None
    return {name: value.detach().clone().requires_grad_(value.requires_grad) for name, value in named.items()}


def hold(step: Step) -> bool:
    """Copy what a step reads, because the caller may change it; returns whether it is small enough."""
    given = [node for node in step.nodes if node.value is not None]
    if size_of(node.value for node in given) > BYTES:
        return False
    for node in given:
        assert node.value is not None
        node.value = node.value.detach().clone().requires_grad_(node.value.requires_grad)
    return True


def size_of(tensors: Any) -> int:
    """Bytes of tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def too_large() -> str:
    """Why large trainings are not tried."""
    return _("the weights or the batch are larger than {size} MiB", size=BYTES >> 20)


class StepKeeper:
    """Keeps the latest recorded steps of a training, with what they read, the first weights and the optimizers."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._steps: deque[Step] = deque(maxlen=STEPS)
        self._values: dict[str, Tensor] | None = None
        self._optimizers: dict[int, OptimizerSettings] = {}  # by identity, of the last step
        self._open = False  # more optimizers may step
        self._missing = ""

    def before_forward(self) -> None:
        """A forward pass begins: the last step is over."""
        self._open = False

    def before_step(self, optimizer: torch.optim.Optimizer, take: Callable[[], Step | None]) -> None:
        """An optimizer is about to step; `take` returns the step that was recorded, or None."""
        if self._open and id(optimizer) not in self._optimizers:
            self._optimizers[id(optimizer)] = OptimizerSettings.of(optimizer, self._model)
        step = None if self._open or self._missing else take()
        if step is None or not step.losses:
            return
        self._values = self._values or copies(self._model)
        if self._values is None or not hold(step):
            self._missing, self._values = too_large(), None
            self._steps.clear()
            return
        if len(self._steps) == STEPS:
            self._steps[0].release()
        self._steps.append(step)
        self._optimizers, self._open = {id(optimizer): OptimizerSettings.of(optimizer, self._model)}, True

    @property
    def recording(self) -> Recording:
        """What was recorded."""
        missing = self._missing or ("" if self._steps else _("no step of an optimizer was recorded"))
        return Recording(list(self._steps), self._values or {}, tuple(self._optimizers.values()), missing)
