"""The branch rule: weights of residual branches, and their largest gains, grow no larger than at the start."""

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from sigmoidcore._torch import foreach

_WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.)+")
"""What DistributedDataParallel and torch.compile put before all names."""
FIRST, EACH = 50, 3
"""Power iterations for the gains at the start, and after each step of the optimizer."""
GROUP = 2**22
"""So many numbers of weights of one shape are held in one go: it needs three copies of them for a moment."""


class BranchRule:
    """Keeps the spectral and the Frobenius norm of matrices and kernels at most at their start, unless that is 0.

    The gain of a branch is at most the product of the spectral norms. Without a norm in front of it, a stream through N
    branches of gain b grows by exp(b / 2), and a training raises b the faster, the higher its rate is: in the direction
    of largest gain, which the branches come to share. Power iteration follows that direction: of a weight W whose
    largest singular value s is above its limit l, (s - l) u v' is taken away, and what W does in other directions
    stays. If several directions grow at once, the Frobenius norm bounds them until their turn has come. `branches` are
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
        self._groups = [_Group(weights) for weights in _grouped(list({id(p): p for p in found.values()}.values()))]

    @property
    def holds_any(self) -> bool:
        """Whether it has weights to hold."""
        return bool(self._groups)

    @torch.no_grad()
    def hold(self) -> None:
        """Bring the weights that are above their limits back; without waiting for the device."""
        for group in self._groups:
            group.hold()

    def state_dict(self) -> dict[str, list[Any]]:
        """The norms at the start, spectral and Frobenius, and the directions of the largest gain now."""
        return {
            "limits": [group.limits.tolist() for group in self._groups],
            "directions": [group.directions.clone() for group in self._groups],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`."""
        limits = [torch.tensor(limits) for limits in state.get("limits", ())]
        directions = list(state.get("directions", ()))
        found = [(limit.shape, direction.shape) for limit, direction in zip(limits, directions, strict=True)]
        if found != [(group.limits.shape, group.directions.shape) for group in self._groups]:
            raise ValueError(
                f"it has sizes for {sum(map(len, directions))} weights of branches, "
                f"of {sum(len(group.directions) for group in self._groups)}, or those have other shapes"
            )
        for group, limit, direction in zip(self._groups, limits, directions, strict=True):
            group.limits, group.directions = limit.to(group.limits), direction.to(group.directions, copy=True)


class _Group:
    """Weights of one shape. limits, [2, weights]: of both norms. directions, [weights, inputs, 1]: right vectors."""

    @torch.no_grad()
    def __init__(self, weights: Sequence[nn.Parameter]) -> None:
        self._weights = weights
        matrices = self._matrices()
        start = torch.randn(matrices.shape[-1], generator=torch.Generator().manual_seed(0)).to(matrices)
        self.directions = start.expand(len(weights), -1)[..., None].clone()
        _, gains = self._iterate(matrices, FIRST)
        limits = torch.stack([gains, torch.linalg.vector_norm(matrices, dim=(1, 2))])
        self.limits = torch.where(limits > 0, limits, torch.inf)  # one that starts at 0 may grow

    @torch.no_grad()
    def hold(self) -> None:
        matrices = self._matrices()
        outputs, gains = self._iterate(matrices, EACH)
        largest, size = self.limits.to(matrices)
        excess = (gains - largest).clamp_(min=0).nan_to_num_(0.0, posinf=0.0)
        matrices -= (excess[:, None, None] * outputs) @ self.directions.mT
        ratios = (size / torch.linalg.vector_norm(matrices, dim=(1, 2))).nan_to_num_(1.0).clamp_(max=1.0)
        matrices *= torch.where(ratios > 0, ratios, 1.0)[:, None, None]  # not finite: nothing is left to hold
        foreach.copy(self._weights, [matrix.view_as(w) for matrix, w in zip(matrices, self._weights, strict=True)])

    def _matrices(self) -> Tensor:
        """[weights, outputs, inputs], at least float32."""
        found = torch.stack([weight.flatten(1) for weight in self._weights])
        return found.to(torch.promote_types(found.dtype, torch.float32))

    def _iterate(self, matrices: Tensor, times: int) -> tuple[Tensor, Tensor]:
        """Power iteration: the left singular vectors, and the largest singular values, which it finds from below."""
        self.directions = self.directions.to(matrices)
        for _ in range(times):
            outputs = nn.functional.normalize(matrices @ self.directions, dim=1).nan_to_num_(0.0, 0.0, 0.0)
            inputs = matrices.mT @ outputs
            gains = torch.linalg.vector_norm(inputs, dim=(1, 2))
            known = ((gains > 0) & gains.isfinite())[:, None, None]  # of zeros, or with a nan, the direction stays
            self.directions = torch.where(known, inputs / gains[:, None, None], self.directions)
        return outputs, gains


def _grouped(weights: Sequence[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Weights of one shape, type and device, as many as are small enough together."""
    kinds: dict[Any, list[nn.Parameter]] = {}
    for weight in weights:
        kinds.setdefault((weight.shape, weight.dtype, weight.device), []).append(weight)
    groups = []
    for some in kinds.values():
        most = max(1, GROUP // max(1, some[0].numel()))
        groups += [some[i : i + most] for i in range(0, len(some), most)]
    return groups
