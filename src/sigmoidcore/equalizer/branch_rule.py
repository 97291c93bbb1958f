"""The branch rule: the weights of residual branches grow no larger than they were at the start."""

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

_WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.)+")
"""What DistributedDataParallel and torch.compile put before all names."""


class BranchRule:
    """Keeps the Frobenius norm of matrices and kernels at most at its start, unless that is 0; see `Equalizer`.

    The gain of a branch is at most the product of these norms. Without a norm in front of it, a stream through N
    branches of gain b grows by exp(b / 2), and a training raises b the faster, the higher its rate is. `branches` are
    names of modules, or patterns; those in these modules count.
    """

    def __init__(self, model: nn.Module, branches: Iterable[str]) -> None:
        found: dict[str, nn.Parameter] = {}
        named = [(_WRAPPERS.sub("", n), p) for n, p in model.named_parameters(remove_duplicate=False) if p.dim() > 1]
        for entry in (_WRAPPERS.sub("", e) for e in ([branches] if isinstance(branches, str) else branches)):
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
        self._weights = list({id(p): p for p in found.values()}.values())  # tied ones once
        sizes = [torch.linalg.vector_norm(weight.detach()) for weight in self._weights]
        self._limits = [torch.where(size > 0, size, torch.inf) for size in sizes]  # one that starts at 0 may grow

    @torch.no_grad()
    def hold(self) -> None:
        """Scale the weights that are larger than at the start; without waiting for the device."""
        for weight, limit in zip(self._weights, self._limits, strict=True):
            ratio = (limit / torch.linalg.vector_norm(weight)).nan_to_num_(1.0)  # nan: nothing is left to hold
            weight.mul_(torch.where(ratio > 0, ratio, 1.0).clamp_(max=1.0))

    def state_dict(self) -> dict[str, list[float]]:
        """The sizes at the start."""
        return {"limits": [float(limit) for limit in self._limits]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`."""
        limits = [float(limit) for limit in state.get("limits", ())]
        if len(limits) != len(self._weights):
            raise ValueError(f"it has sizes for {len(limits)} weights of branches, of {len(self._weights)}")
        self._limits = [limit.new_tensor(value) for limit, value in zip(self._limits, limits, strict=True)]
