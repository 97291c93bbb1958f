"""Statistics over all processes that train one model together, so that the slopes are the same on every rank."""

from collections.abc import Sequence

import torch
from torch import Tensor, distributed


class Ranks:
    """The processes of a group. In one process every statistic is the argument, bit for bit.

    Every method is a collective: all ranks call it together and get the same numbers. They exchange sums in float64,
    never samples.

    Args:
        group: the process group; None: the default group, or one process where there is none.

    Raises:
        ValueError: this process does not belong to the group.
    """

    def __init__(self, group: "distributed.ProcessGroup | None" = None) -> None:
        self._group = group
        if self.count < 1:
            raise ValueError("this process does not belong to process_group: call this on the ranks of the group only")

    @property
    def count(self) -> int:
        """Number of ranks; -1 if this process is none of them."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return 1
        return distributed.get_world_size(self._group)

    def all(self, flag: bool, device: torch.device) -> bool:
        """Whether the flag is set on every rank."""
        count = self.count
        return flag if count == 1 else self._sum(torch.tensor([float(flag)]), device).item() == count

    def same(self, values: Tensor) -> bool:
        """Whether a tensor is the same on every rank, bit for bit; nan is not the same as itself."""
        if self.count == 1:
            return True
        both = torch.cat([values.flatten(), -values.flatten()])
        largest = self._sum(both, values.device, "MAX").to(both.dtype)
        return self.all(torch.equal(largest, both), values.device)

    def sizes(self, sizes: Tensor, samples: Sequence[int], device: torch.device) -> Tensor:
        """Gradient sizes over the joined batch, whose loss is the mean of the ranks' losses.

        ``sqrt(sum_r n_r g_r^2 / sum_r n_r) / R`` for R ranks, from this rank's sizes g and samples n: [cores], float64,
        on the CPU.
        """
        if self.count == 1:
            return sizes
        number = torch.tensor(samples, dtype=torch.float64)
        squares, number = self._sum(torch.cat([sizes.square() * number, number]), device).chunk(2)
        return (squares / number).sqrt() / self.count

    def means(self, means: Sequence[Tensor], rows: Sequence[int]) -> list[Tensor]:
        """Means over the rows of all ranks, from this rank's means and the number of rows of each."""
        if self.count == 1:
            return list(means)
        device = means[0].device
        number = torch.tensor(rows, dtype=torch.float64, device=device)
        sums = [m.to(device, torch.float64).flatten() * n for m, n in zip(means, number, strict=True)]
        *totals, number = torch.split(self._sum(torch.cat([*sums, number]), device), [*map(len, sums), len(rows)])
        return [(t / n).reshape(m.shape).to(m) for t, n, m in zip(totals, number, means, strict=True)]

    def total(self, values: Tensor, device: torch.device, op: str = "SUM") -> Tensor:
        """Sum (or "MAX") of the ranks' numbers, in float64; `device` is that of the model."""
        return values.to(torch.float64) if self.count == 1 else self._sum(values, device, op)

    def _sum(self, values: Tensor, device: torch.device, op: str = "SUM") -> Tensor:
        """Sum (or "MAX") over the ranks in float64, on the device that the backend takes; returned to where it was."""
        wanted = "cpu" if "gloo" in distributed.get_backend(self._group) else device
        total = values.to(wanted, torch.float64, copy=True)
        distributed.all_reduce(total, op=getattr(distributed.ReduceOp, op), group=self._group)
        return total.to(values.device)


class Alone(Ranks):
    """One process by itself, whether or not others run beside it."""

    def __init__(self) -> None:
        pass

    @property
    def count(self) -> int:
        """One."""
        return 1
