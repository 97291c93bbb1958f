"""The branch rule: weights of residual branches, and their largest gains, grow no larger than at the start."""

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from sigmoidcore._torch import foreach

_WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.)+")
"""What DistributedDataParallel and torch.compile put before all names."""
FIRST, EACH = 16, 3
"""Rounds of power iteration at the start (later one after each step of the optimizer), and iterations of a round."""
LARGEST_STEP = 0.02
"""A step of the optimizer changes a weight by at most this share of its size at the start."""
MISSED = 0.01
"""A largest singular value that is above its limit by less than this share stays: the start may have missed as much."""


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
    """Keeps the spectral and the Frobenius norm of matrices and kernels at most at their start, and limits their steps.

    The gain of a branch is at most the product of the spectral norms. Without a norm in front of it, a stream through N
    branches of gain b grows by exp(b / 2), and a training raises b the faster, the higher its rate is: in the direction
    of largest gain, which the branches come to share. Power iteration follows that direction: of a weight W whose
    largest singular value s is above its limit l, (s - l) u v' is taken away, and what W does in other directions
    stays. If several directions grow at once, the Frobenius norm bounds them until their turn has come. At ten times a
    good rate, a step of Adam is as large as a weight, and no bound on its size helps: steps that are longer than
    `LARGEST_STEP` of the size at the start are shortened. A weight that starts at 0 is free. `branches` are names of
    modules, or patterns; those in these modules count.
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
        self._directions = [
            torch.randn(w[0].numel(), generator=torch.Generator().manual_seed(0)) for w in self._weights
        ]
        self._before: list[Tensor] = []  # the weights before a step of the optimizer
        self._limits = torch.zeros(2, 0)
        if self._weights:
            gains = [self._iterate()[-1] for _ in range(FIRST)][-1]
            limits = torch.stack([gains, self._sizes()])
            self._limits = torch.where(limits > 0, limits, torch.inf)  # one that starts at 0 may grow

    @property
    def holds_any(self) -> bool:
        """Whether it has weights to hold."""
        return bool(self._weights)

    def before_step(self) -> None:
        """Remember the weights before a step of the optimizer."""
        self._before = [weight.detach().clone() for weight in self._weights]

    @torch.no_grad()
    def hold(self) -> None:
        """Shorten long steps and bring weights above their limits back, without waiting for the device."""
        if not self._weights:
            return
        self._shorten_step()
        outputs, gains = self._iterate()
        largest, sizes = self._limits.to(gains)
        excess = torch.where(gains > (1 + MISSED) * largest, gains - largest, 0.0).nan_to_num_(0.0, posinf=0.0)
        for weight, u, v, much in zip(self._weights, outputs, self._directions, excess, strict=True):
            weight.sub_(torch.outer(much * u, v).view(weight.shape))
        found = self._sizes()
        ratios = (sizes / found).nan_to_num_(1.0).clamp_(max=1.0)
        for weight, ratio in zip(self._weights, torch.where(ratios > 0, ratios, 1.0), strict=True):
            weight.mul_(ratio)  # nan and inf: nothing is left to hold

    def _shorten_step(self) -> None:
        before, self._before = self._before, []
        if not before:
            return
        steps = [weight - old for weight, old in zip(self._weights, before, strict=True)]
        lengths = torch.stack(foreach.norms(steps))
        shares = (LARGEST_STEP * self._limits[1].to(lengths) / lengths).nan_to_num_(1.0)
        for weight, old, step, share in zip(self._weights, before, steps, shares, strict=True):
            weight.copy_(torch.where(share < 1, old + share.to(step) * step, weight))

    def state_dict(self) -> dict[str, list[Any]]:
        """The norms at the start, spectral and Frobenius, and the directions of the largest gain now."""
        return {"limits": self._limits.tolist(), "directions": [v.clone() for v in self._directions]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`."""
        directions = list(state.get("directions", ()))
        limits = self._limits.new_tensor(state.get("limits", [[], []]))
        if [v.shape for v in directions] != [v.shape for v in self._directions] or limits.shape != self._limits.shape:
            raise ValueError(
                f"it has {len(directions)} weights of branches and this Equalizer {len(self._weights)}, or their "
                "shapes differ: give both the same branches="
            )
        pairs = zip(directions, self._directions, strict=True)
        self._limits, self._directions = limits, [new.to(old, copy=True) for new, old in pairs]

    @torch.no_grad()
    def _iterate(self) -> tuple[list[Tensor], Tensor]:
        """A round of power iteration: left singular vectors, and the largest singular values [weights], from below."""
        lefts, rights = [], []
        for weight, v in zip(self._weights, self._directions, strict=True):
            matrix = weight.flatten(1).to(torch.promote_types(weight.dtype, torch.float32))
            v = v.to(matrix)
            for _ in range(EACH):
                u = matrix.mv(v)
                v = matrix.T.mv(u)
            lefts.append(u)
            rights.append(v)
        sizes = torch.stack([torch.stack(foreach.norms(vectors)) for vectors in (lefts, rights)])
        known = (sizes > 0).all(0) & sizes.isfinite().all(0)  # of zeros, or with a nan, the direction stays
        left, right = sizes
        self._directions = [
            torch.where(k, v / size, before.to(v))
            for k, v, size, before in zip(known, rights, right, self._directions, strict=True)
        ]
        lefts = [(u / size).nan_to_num_(0.0, 0.0, 0.0) for u, size in zip(lefts, left, strict=True)]
        return lefts, torch.where(known, right / left, 0.0)

    @torch.no_grad()
    def _sizes(self) -> Tensor:
        types = [torch.promote_types(weight.dtype, torch.float32) for weight in self._weights]
        return torch.stack([torch.linalg.vector_norm(w, dtype=t) for w, t in zip(self._weights, types, strict=True)])
