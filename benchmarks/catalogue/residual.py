"""Networks that add their branches to what came before, or gate between the two."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from catalogue.case import Case, Problem, classes, images, scaled, shifted, train

cross_entropy = nn.functional.cross_entropy


class Branch(nn.Module):
    """Two Linear layers with a ReLU between, added to the input."""

    def __init__(self, width: int, factor: float, norm: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()
        self.rise = nn.Linear(width, width)
        self.relu = nn.ReLU()
        self.fall = nn.Linear(width, width)
        for linear in (self.rise, self.fall):
            nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
            nn.init.zeros_(linear.bias)
        scaled(self.fall, factor)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fall(self.relu(self.rise(self.norm(x))))


class Residual(nn.Module):
    def __init__(self, blocks: int, factor: float = 1.0, norm: bool = False, width: int = 48) -> None:
        super().__init__()
        self.stem = nn.Linear(32, width)
        self.blocks = nn.ModuleList(Branch(width, factor, norm) for _ in range(blocks))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def residual(
    blocks: int, factor: float = 1.0, norm: bool = False, change: Callable[[Residual], None] | None = None
) -> Problem:
    model = Residual(blocks, factor, norm)
    if change is not None:
        change(model)
    return model, *classes(), cross_entropy


def loud(block: int, by: float) -> Callable[[Residual], None]:
    return lambda model: scaled(model.blocks[block].fall, by)


def dead(block: int) -> Callable[[Residual], None]:
    return lambda model: shifted(model.blocks[block].rise, -50.0)


def cut(block: int) -> Callable[[Residual], None]:
    """The blocks up to this one run without a gradient, though they should learn."""

    def change(model: Residual) -> None:
        forward = model.blocks[block].forward
        model.blocks[block].forward = lambda x: forward(x).detach()

    return change


class Rezero(nn.Module):
    """Each branch is multiplied by a number that starts at 0."""

    def __init__(self, blocks: int, dead: bool = False, width: int = 48) -> None:
        super().__init__()
        self.stem = nn.Linear(32, width)
        self.branches = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.scales = nn.ParameterList(nn.Parameter(torch.zeros(())) for _ in range(blocks))
        self.head = nn.Linear(width, 10)
        if dead:
            for branch in self.branches:
                nn.init.zeros_(branch.weight)
                nn.init.zeros_(branch.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for branch, scale in zip(self.branches, self.scales, strict=True):
            x = x + scale * torch.relu(branch(x))
        return self.head(x)


class Highway(nn.Module):
    """A gate between a layer and its input; its bias says how far it is open at the start."""

    def __init__(self, blocks: int, bias: float, width: int = 48) -> None:
        super().__init__()
        self.stem = nn.Linear(32, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.gates = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.opening = nn.ModuleList(nn.Sigmoid() for _ in range(blocks))
        self.head = nn.Linear(width, 10)
        for gate in self.gates:
            nn.init.constant_(gate.bias, bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer, gate, opening in zip(self.layers, self.gates, self.opening, strict=True):
            open_ = opening(gate(x))
            x = open_ * torch.tanh(layer(x)) + (1 - open_) * x
        return self.head(x)


class Block(nn.Module):
    """The block of a ResNet: two convolutions with BatchNorm, and perhaps a stride."""

    def __init__(self, fan_in: int, fan_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(fan_in, fan_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(fan_out)
        self.conv2 = nn.Conv2d(fan_out, fan_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(fan_out)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = nn.Identity() if stride == 1 else nn.Conv2d(fan_in, fan_out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.shortcut(x) + self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))))


def resnet(zero_gamma: bool) -> Problem:
    blocks = [Block(12, 12, 1), Block(12, 12, 1), Block(12, 24, 2), Block(24, 24, 1)]
    if zero_gamma:
        for block in blocks:
            nn.init.zeros_(block.bn2.weight)
    stem = [nn.Conv2d(3, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU(inplace=True)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10)]
    return nn.Sequential(*stem, *blocks, *head), *images(), cross_entropy


def trained(make: Callable[[], Problem], steps: int) -> Problem:
    problem = make()
    train(problem, torch.optim.Adam(problem[0].parameters(), lr=1e-3), steps)
    return problem


BROKEN = (
    Case(
        "residual, 60 blocks, He, not normalised",
        "each branch is as large as its input: the signal and the gradient double 30 times",
        partial(residual, 60),
        ("US102",),
        ("stem", "blocks.0.rise", "blocks.0.fall"),
    ),
    Case(
        "residual, branches x 5, 12 blocks",
        "each branch is 5 times as large as its input",
        partial(residual, 12, 5.0),
        ("US102",),
        ("stem", "blocks.0.rise", "blocks.0.fall"),
    ),
    Case(
        "residual, one loud branch of 12",
        "the weights that end block 6 are 1e6 times too large",
        partial(residual, 12, 0.1, False, loud(6, 1e6)),
        ("US102",),
        ("blocks.6.fall", "blocks.6.rise", "blocks.6.relu"),
    ),
    Case(
        "residual, one dead branch of 8",
        "bias - 50 in block 3: its ReLU says 0 for every input",
        partial(residual, 8, 0.3, True, dead(3)),
        ("US202",),
        ("blocks.3.relu",),
    ),
    Case(
        "residual, cut at block 4 of 8",
        "block 4 returns a detached result",
        partial(residual, 8, 0.3, True, cut(4)),
        ("US501",),
        (
            "stem.weight",
            "stem.bias",
            *(
                f"blocks.{i}.{part}.{kind}"
                for i in range(5)
                for part in ("norm", "rise", "fall")
                for kind in ("weight", "bias")
            ),
        ),
    ),
    Case(
        "ReZero, branches start at 0 as well",
        "0 times 0: neither the branch nor its scale ever gets a gradient",
        lambda: (Rezero(6, dead=True), *classes(), cross_entropy),
        ("US502",),
        tuple(f"branches.{i}.weight" for i in range(6)),
    ),
    Case(
        "highway, gates shut by their bias of -20",
        "2e-9 of each layer passes",
        lambda: (Highway(6, -20.0), *classes(), cross_entropy),
        ("US201",),
        tuple(f"opening.{i}" for i in range(6)),
    ),
)

HEALTHY = (
    Case("residual, 20 blocks, pre-norm", "normalised before each branch", partial(residual, 20, 1.0, True)),
    Case("residual, 100 blocks, branches x 0.1", "small branches", partial(residual, 100, 0.1), slow=True),
    Case("residual, 300 blocks, pre-norm", "deep", partial(residual, 300, 0.1, True), slow=True),
    Case("residual, branches end at 0", "nothing comes back into them at the first step", partial(residual, 8, 0.0)),
    Case(
        "ReZero, 30 branches",
        "nothing comes back into them at the first step",
        lambda: (Rezero(30), *classes(), cross_entropy),
    ),
    Case(
        "highway, gates at -2, 20 layers",
        "as its authors start it",
        lambda: (Highway(20, -2.0), *classes(), cross_entropy),
    ),
    Case("ResNet", "BatchNorm, in place", partial(resnet, False)),
    Case(
        "ResNet, gamma of each block starts at 0",
        "nothing comes back into the blocks at the first step",
        partial(resnet, True),
    ),
    Case("ResNet, trained", "confident", partial(trained, partial(resnet, True), 60), slow=True),
)
