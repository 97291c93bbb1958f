"""Models to fold, and checks of every fold: plain modules and the same outputs."""

import copy

import torch
from torch import fx, nn
from torch.nn import functional as F

import sigmoidcore as sc
from sigmoidcore import SigmoidCore


def core(features=None, *, dim=-1, centered=True, scale=1.0, trainable=False):
    """A core with a random slope and shift for each neuron."""
    made = SigmoidCore(features, dim=dim, centered=centered, scale=scale, trainable=trainable)
    made.set_slope(torch.rand(made.shift.shape) * 4 + 0.3)
    made.set_shift(torch.randn(made.shift.shape))
    return made


def kept(folded):
    """The constants that could not be folded: names of modules with the names of their buffers."""
    return {n: sorted(dict(m.named_buffers())) for n, m in folded.named_modules() if isinstance(m, fx.GraphModule)}


def assert_same(a, b, tolerance):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def assert_folds(model, *inputs, stays=None):
    """In training (float64) and in evaluation (float32): same outputs, plain modules, the model as it was."""
    for dtype, tolerance, training in ((torch.float64, 1e-12, True), (torch.float32, 1e-5, False)):
        model = model.to(dtype).train(training)
        arguments = [x.to(dtype) for x in inputs]
        before = copy.deepcopy(model.state_dict())
        folded = sc.fold(model)
        assert all(not type(m).__module__.startswith("sigmoidcore") for m in folded.modules())
        assert all(m.training == training for m in folded.modules() if not isinstance(m, fx.GraphModule))
        assert kept(folded) == (stays or {})
        torch.manual_seed(1)
        expected = copy.deepcopy(model)(*arguments)
        torch.manual_seed(1)
        assert_same(folded(*arguments), expected, tolerance)
        after = model.state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert {p.dtype for p in folded.parameters()} <= {dtype}
    return folded


def assert_computes_the_same(model, fold, x):
    """For a model of several outputs, in training and evaluation."""
    for training in (False, True):
        model.train(training)
        results = []
        for net in (copy.deepcopy(model), fold(model)):
            torch.manual_seed(1)
            results.append([y for y in net(x) if y is not None])
        for found, expected in zip(*results, strict=True):
            scale = float(expected.detach().abs().max())
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10 * scale)


def randomized(model):
    """Change weights and running statistics randomly."""
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
        for m in model.modules():
            if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.running_mean is not None:
                m.running_mean.normal_()
                m.running_var.uniform_(0.5, 2)
    return model


class Net(nn.Module):
    """Modules by name, and a forward given as a function of the network and its inputs."""

    def __init__(self, run, **modules):
        super().__init__()
        self.run = run
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, *inputs):
        return self.run(self, *inputs)


class One(Net):
    """The same with one input, which tracing wants to know."""

    def forward(self, x):
        return self.run(self, x)


class Two(Net):
    def forward(self, x, y):
        return self.run(self, x, y)


BETWEEN = {
    "identity": (nn.Identity(), True),
    "average pool": (nn.AvgPool2d(2), True),
    "average pool, ceil": (nn.AvgPool2d(2, ceil_mode=True), True),
    "average pool, padding not counted": (nn.AvgPool2d(3, padding=1, count_include_pad=False), True),
    "average pool, padding counted": (nn.AvgPool2d(3, padding=1), False),
    "average pool, other divisor": (nn.AvgPool2d(2, divisor_override=3), False),
    "adaptive average": (nn.AdaptiveAvgPool2d(3), True),
    "max pool": (nn.MaxPool2d(3, padding=1), True),
    "adaptive max": (nn.AdaptiveMaxPool2d(2), True),
    "upsample": (nn.Upsample(scale_factor=2, mode="bilinear"), True),
    "upsample, nearest": (nn.Upsample(scale_factor=2), True),
    "zero padding": (nn.ZeroPad2d(1), False),
    "reflection padding": (nn.ReflectionPad2d(1), True),
    "replication padding": (nn.ReplicationPad2d(1), True),
    "circular padding": (nn.CircularPad2d(1), True),
    "dropout": (nn.Dropout(0.5), False),
    "dropout of channels": (nn.Dropout2d(0.5), False),
}
"""What lies between two layers, and whether an offset passes."""

SHAPES = {
    "flatten": lambda h: torch.flatten(h, 1),
    "view": lambda h: h.view(h.size(0), -1),
    "reshape": lambda h: h.reshape(h.shape[0], -1),
    "permute": lambda h: h.permute(0, 2, 3, 1).flatten(1),
    "transpose": lambda h: torch.transpose(h, 1, 2).contiguous().view(h.size(0), -1),
    "mean": lambda h: h.mean((2, 3)).repeat(1, 36),
    "chunk and cat": lambda h: torch.cat(h.chunk(2, 1)[::-1], 1).flatten(1),
    "slice": lambda h: torch.cat([h[:, 2:], h[:, :2]], 1).flatten(1),
    "pad": lambda h: F.pad(h[..., 1:], (1, 0)).flatten(1),
    "number": lambda h: (2 * h / 3).flatten(1),
    "pool": lambda h: F.interpolate(F.avg_pool2d(h, 2), scale_factor=2).flatten(1),
    "dropout": lambda h: F.dropout(h, 0.5).flatten(1),
}
"""The same in functions and methods."""
if torch.__version__ < "2.9":
    del SHAPES["chunk and cat"]  # which torch.fx does not trace
OFFSET_STAYS = "pad", "number", "pool", "dropout"
"""Those that an offset does not pass."""


def unsettled(model):
    """Change slopes and shifts randomly."""
    for m in model.modules():
        if isinstance(m, SigmoidCore):
            m.set_slope(torch.rand(m.shift.shape) * 4 + 0.3)
            m.set_shift(torch.randn(m.shift.shape))
    return model


class Functional(nn.Module):
    """Functional calls in each spelling, a dropout that asks for the mode, and a layer that reads them."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x):
        x = F.dropout(torch.tanh(self.a(x)), 0.3, training=self.training)
        return self.d(F.relu(F.tanh(self.c(self.b(x).sigmoid()))))


class Reusing(nn.Module):
    """One activation that its forward calls twice; it asks for the mode as well."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.act = nn.Linear(4, 5), nn.Linear(5, 6), nn.Linear(6, 1), nn.Tanh()

    def forward(self, x):
        return self.c(self.act(self.b(F.dropout(self.act(self.a(x)), 0.3, self.training))))


class Random(nn.Module):
    """A random graph of layers, cores (some used twice), sums, products, concatenations and shape operations."""

    def __init__(self, seed):
        super().__init__()
        self.pick = pick = torch.Generator().manual_seed(seed)
        self.layers = nn.ModuleList(nn.Linear(6, 6, bias=i % 2 == 0) for i in range(20))
        self.layers.append(nn.Sequential(nn.Linear(6, 6), nn.Identity(), nn.Dropout(0.5)))
        self.layers.append(nn.BatchNorm1d(6))
        self.layers.append(nn.LayerNorm(6))
        self.cores = nn.ModuleList(
            core(6 if i % 2 else None, centered=i % 4 != 3, scale=(1.0, 1.0, 2.0)[i % 3]) for i in range(12)
        )
        self.cut = nn.Linear(12, 6)
        self.both = nn.Bilinear(6, 6, 6)
        self.out = nn.Linear(6, 3)
        self.plan = [tuple(torch.randint(1000, (4,), generator=pick).tolist()) for _ in range(14)]
        del self.pick

    def forward(self, x):
        seen = [x]
        for what, first, second, which in self.plan:
            # Mostly chains, as in real networks: the last value, or one of all before.
            a = seen[-1] if first % 8 else seen[first % len(seen)]
            b = seen[second % len(seen)]
            kind = what % 14
            if kind < 4:
                a = self.layers[which % len(self.layers)](a)
            elif kind < 9:
                a = self.cores[which % len(self.cores)](self.layers[(which + second) % 20](a) if which % 5 else a)
            elif kind == 9:
                a = a + b if which % 2 else a - b
            elif kind == 10:
                a = self.cut(torch.cat([a, b], -1))
            elif kind == 11:
                a = a * b if which % 3 == 0 else a * 0.5
            elif kind == 12:
                a = a.view(a.size(0), 2, 3).transpose(1, 2).flatten(1)
            else:
                a = self.both(a, b)
            seen.append(a)
        return self.out(seen[-1]), seen[len(seen) // 2] if self.plan[0][0] % 2 else None
