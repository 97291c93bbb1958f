"""The branch rule: no step changes a weight of residual branches by more than a small part of its size."""

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

_WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.)+")
"""What DistributedDataParallel and torch.compile put before all names."""
LARGEST_STEP = 0.02
"""Of the size of a weight at the start."""


def _checked(branches: Any) -> list[str]:
    """The names in a list; a TypeError for anything else."""
    names = [branches] if isinstance(branches, str) or not isinstance(branches, Iterable) else list(branches)
    wrong = [type(name).__name__ for name in names if not isinstance(name, str)]
    if wrong:
        raise TypeError(
            f"branches takes names and patterns of modules, such as 'blocks.*', got {wrong[0]}: the report of "
            "prepare(branches=True) has them as branch_layers"
        )
    return names


class BranchRule:
    """Shortens steps of matrices and kernels that are longer than `LARGEST_STEP` of their size at the start.

    The gain of a branch is at most the product of the largest singular values of its weights. Without a norm in front
    of it, a stream through N branches of gain b grows by exp(b / 2). At a high rate, a step of Adam is as large as a
    weight: b is several times as large after it, in a direction that the branches share. A short step changes b little.
    The size is the Frobenius norm; a weight that starts at 0 is free. `branches` are names of modules, or patterns;
    those in these modules count.
    """

    def __init__(self, model: nn.Module, branches: Iterable[str]) -> None:
        found: dict[str, nn.Parameter] = {}
        named = [(_WRAPPERS.sub("", n), p) for n, p in model.named_parameters(remove_duplicate=False) if p.dim() > 1]
        for entry in (_WRAPPERS.sub("", e) for e in _checked(branches)):
            inside = {n: p for n, p in named if fnmatchcase(n, entry) or fnmatchcase(n, f"{entry}.*")}
            if not inside:
                raise ValueError(
                    f"branches: no module with a matrix or a kernel has the name or pattern {entry!r}; "
                    f"one that has is {next((n.rpartition('.')[0] for n, _ in named), None)!r}"
                )
            found |= inside
        sharded = next((name for name, p in found.items() if hasattr(p, "to_local")), None)
        if sharded is not None:
            raise ValueError(
                f"branches: weight '{sharded}' is sharded, and its size is that of all shards: leave it out"
            )
        devices = sorted({str(p.device) for p in found.values()})
        if len(devices) > 1:
            raise ValueError(f"branches: the weights are on {' and '.join(devices)}: name those of one device")
        self._weights = list({id(p): p for p in found.values()}.values())  # tied ones once
        self._before: list[Tensor] = []  # the weights before a step of the optimizer
        sizes = self._sizes(self._weights)
        self._limits = torch.where(sizes > 0, LARGEST_STEP * sizes, torch.inf)

    @property
    def limits_any(self) -> bool:
        """Whether it has weights."""
        return bool(self._weights)

    def before_step(self) -> None:
        """Remember the weights before a step of the optimizer."""
        self._before = [weight.detach().clone() for weight in self._weights]

    @torch.no_grad()
    def after_step(self) -> None:
        """Shorten what was too long, without waiting for the device."""
        before, self._before = self._before, []
        if not before:
            return
        steps = [weight - old for weight, old in zip(self._weights, before, strict=True)]
        sizes = self._sizes(steps)
        shares = (self._limits.to(sizes) / sizes).nan_to_num_(1.0)
        for weight, old, step, share in zip(self._weights, before, steps, shares, strict=True):
            weight.copy_(torch.where(share < 1, old + share.to(step) * step, weight))

    def state_dict(self) -> dict[str, list[float]]:
        """The longest steps."""
        return {"limits": self._limits.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`."""
        limits = self._limits.new_tensor(state.get("limits", []))
        if limits.shape != self._limits.shape:
            raise ValueError(
                f"it has {limits.numel()} weights of branches and this Equalizer {len(self._weights)}: give both the "
                "same branches="
            )
        self._limits = limits

    @staticmethod
    @torch.no_grad()
    def _sizes(tensors: Sequence[Tensor]) -> Tensor:
        types = [torch.promote_types(tensor.dtype, torch.float32) for tensor in tensors]
        sizes = [torch.linalg.vector_norm(tensor, dtype=t) for tensor, t in zip(tensors, types, strict=True)]
        return torch.stack(sizes) if sizes else torch.zeros(0)
