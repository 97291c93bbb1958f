"""Calibrate and prepare on every kind of layer and graph: convolutions, pools, branches, sums, several inputs."""

import math

import pytest
import torch
from support.untouched import untouched
from torch import Tensor, nn

from sigmoidcore import SigmoidCore, calibrate, convert, gradient_profile, prepare
from sigmoidcore.calibration.orthogonal import make_orthogonal, scale_to_features
from unstuck.observation.profile import spread


def core(features: int, dim: int = 1) -> SigmoidCore:
    return SigmoidCore(features, dim=dim, alpha=4.0, centered=True)


def stack(kind: type[nn.Module], depth: int, channels: int = 16, **options) -> list[nn.Module]:
    """`depth` layers of one kind, each with a core; the first reads one channel."""
    layers: list[nn.Module] = []
    for layer in range(depth):
        layers += [kind(channels if layer else 1, channels, 3, **options), core(channels)]
    return layers


def classifier(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(5))


def strided() -> nn.Module:
    return classifier(
        *stack(nn.Conv2d, 3, padding=1),
        nn.Conv2d(16, 16, 3, stride=2, padding=1), core(16), nn.Conv2d(16, 32, 2, stride=2), core(32),
        nn.Conv2d(32, 32, 3, padding=1), core(32),
    )  # fmt: skip


def pooled(pool: type[nn.Module]) -> nn.Module:
    first, *rest = stack(nn.Conv2d, 9, padding=1)
    return classifier(first, *rest[:5], pool(2), *rest[5:11], pool(2), *rest[11:])


def decoder() -> nn.Module:
    return nn.Sequential(
        nn.Linear(8, 32), core(32, -1), nn.Unflatten(1, (8, 2, 2)),
        nn.ConvTranspose2d(8, 16, 4, stride=2, padding=1), core(16),
        nn.ConvTranspose2d(16, 16, 3, padding=1), core(16), nn.Conv2d(16, 1, 3, padding=1),
    )  # fmt: skip


class PreActivation(nn.Module):
    """h = h + linear(core(h)): a stream that every core reads and adds to."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 32), nn.Linear(32, 3)
        self.linears = nn.ModuleList(nn.Linear(32, 32) for _ in range(depth))
        self.cores = nn.ModuleList(core(32, -1) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        for linear, act in zip(self.linears, self.cores, strict=True):
            h = h + linear(act(h))
        return self.last(h)


class PostActivation(nn.Module):
    """h = core(h + linear(core(linear(h))))."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.first, self.start, self.last = nn.Linear(8, 32), core(32, -1), nn.Linear(32, 3)
        self.linears = nn.ModuleList(nn.Linear(32, 32) for _ in range(2 * depth))
        self.cores = nn.ModuleList(core(32, -1) for _ in range(2 * depth))

    def forward(self, x: Tensor) -> Tensor:
        h = self.start(self.first(x))
        for i in range(0, len(self.cores), 2):
            h = self.cores[i + 1](h + self.linears[i + 1](self.cores[i](self.linears[i](h))))
        return self.last(h)


class Branches(nn.Module):
    """Inception-like: three convolutions side by side, joined by their channels."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.ModuleList(
                nn.Sequential(nn.Conv2d(24 if i else 1, 8, size, padding=size // 2), core(8)) for size in (1, 3, 5)
            )
            for i in range(depth)
        )
        self.last = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = torch.cat([branch(x) for branch in block], 1)
        return self.last(x.mean((2, 3)))


class TwoInputs(nn.Module):
    """Two towers of different depth, a Bilinear layer that joins them, and outputs in a dict with a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Sequential(nn.Linear(4, 16), core(16, -1), nn.Linear(16, 16), core(16, -1))
        self.right = nn.Sequential(nn.Linear(7, 16), core(16, -1))
        self.join, self.core = nn.Bilinear(16, 16, 16), core(16, -1)
        self.first, self.second = nn.Linear(16, 2), nn.Linear(16, 3)

    def forward(self, a: Tensor, b: Tensor) -> dict[str, object]:
        h = self.core(self.join(self.left(a), self.right(b)))
        return {"first": self.first(h), "rest": (self.second(h),)}


class Tied(nn.Module):
    """One weight in several places, a core of its own in each."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.shared, self.last = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 2)
        self.cores = nn.ModuleList(core(16, -1) for _ in range(6))

    def forward(self, x: Tensor) -> Tensor:
        h = self.cores[0](self.first(x))
        for act in self.cores[1:]:
            h = act(self.shared(h))
        return self.last(h)


def images(n: int) -> Tensor:
    return torch.randn(n, 1, 12, 12)


def vectors(n: int) -> Tensor:
    return torch.randn(n, 8)


def words() -> nn.Module:
    return nn.Sequential(
        nn.Embedding(50, 16), nn.Flatten(),
        nn.Linear(80, 32), core(32, -1), nn.Linear(32, 32), core(32, -1), nn.Linear(32, 4),
    )  # fmt: skip


CASES = {
    "convolutions": (lambda: classifier(*stack(nn.Conv2d, 12, padding=1)), images),
    "circular": (lambda: classifier(*stack(nn.Conv2d, 8, padding=1, padding_mode="circular")), images),
    "dilated": (lambda: classifier(*stack(nn.Conv2d, 8, padding=2, dilation=2)), images),
    "groups": (
        lambda: classifier(
            *stack(nn.Conv2d, 1, padding=1),
            *(m for _ in range(6) for m in (nn.Conv2d(16, 16, 3, padding=1, groups=4), core(16))),
        ),
        images,
    ),
    "strides": (strided, images),
    "one dimension": (lambda: classifier(*stack(nn.Conv1d, 10, padding=1)), lambda n: torch.randn(n, 1, 40)),
    "three dimensions": (lambda: classifier(*stack(nn.Conv3d, 5, padding=1)), lambda n: torch.randn(n, 1, 5, 5, 5)),
    "transposed": (decoder, vectors),
    "maximum pools": (lambda: pooled(nn.MaxPool2d), images),
    "dropout": (
        lambda: classifier(*(m for layer in stack(nn.Conv2d, 6, padding=1) for m in (layer, nn.Dropout2d(0.2)))),
        images,
    ),
    "residual stream": (lambda: PreActivation(30), vectors),
    "two inputs": (TwoInputs, lambda n: (torch.randn(n, 4), torch.randn(n, 7))),
    "embedding": (words, lambda n: torch.randint(0, 50, (n, 5))),
    "tied weights": (Tied, vectors),
}


def made(make, batch) -> nn.Module:
    model = make()
    inputs = batch(2)
    model(*inputs) if isinstance(inputs, tuple) else model(inputs)  # lazy layers take their sizes
    return model


@pytest.mark.parametrize("verb", [calibrate, prepare])
@pytest.mark.parametrize("name", CASES)
def test_the_profile_becomes_level_also_on_an_unseen_batch(name, verb):
    make, batch = CASES[name]
    model = made(make, batch)
    report = verb(model, batch(100))
    assert report.after.spread <= 1.15
    assert report.before.spread > 1.5 * report.after.spread
    assert gradient_profile(model, batch(100)).spread <= 1.4
    assert all(bool(torch.isfinite(t).all()) for t in [*model.parameters(), *model.buffers()])


def test_prepare_levels_a_residual_network_with_cores_after_its_sums():
    model = PostActivation(8)
    assert prepare(model, vectors(200)).after.spread <= 1.1
    assert gradient_profile(model, vectors(200)).spread <= 1.2


def test_where_no_pass_makes_the_profile_more_level_calibrate_leaves_all_slopes_and_says_so():
    torch.manual_seed(0)
    model, x = PostActivation(10), vectors(128)
    with untouched(model):
        report = calibrate(model, x)
    assert any("all slopes are as they were" in note for note in report.notes)
    assert report.after.spread == pytest.approx(report.before.spread)
    assert report.slopes.tolist() == pytest.approx([4.0] * 21)
    assert bool((report.levels > 0).all())


@pytest.mark.parametrize("verb", [calibrate, prepare])
def test_branches_are_level_to_a_quarter(verb):
    model = Branches(6)
    report = verb(model, images(64))
    assert report.before.spread > 10
    assert report.after.spread <= 1.25


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.LayerNorm])
def test_behind_a_normalisation_slopes_set_the_saturation_level_and_the_report_says_so(norm):
    layers = [m for i in range(6) for m in (nn.Linear(16 if i else 8, 16), norm(16), core(16, -1))]
    report = prepare(nn.Sequential(*layers, nn.Linear(16, 2)), vectors(200), saturation=0.7)
    assert report.levels.tolist() == pytest.approx([0.7] * 6, rel=1e-3)
    assert any(note.startswith("a normalisation scales what some cores read (5)") for note in report.notes)


def test_a_first_core_that_gain_1_makes_nearly_binary_is_noted():
    report = calibrate(nn.Sequential(nn.Linear(8, 16), core(16, -1), nn.Linear(16, 1)), 10 * vectors(100))
    assert any("nearly binary" in note and "saturation=1" in note for note in report.notes)


@pytest.mark.parametrize(("channels", "out", "groups"), [(8, 8, 1), (4, 12, 1), (12, 4, 1), (12, 8, 4)])
@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv2d, nn.Conv3d])
def test_a_convolution_gets_a_delta_orthogonal_kernel_in_every_group(kind, channels, out, groups):
    layer = kind(channels, out, 3, groups=groups, padding=1)
    make_orthogonal(layer, torch.Generator().manual_seed(0))
    centre = layer.weight[(..., *[1] * (layer.weight.dim() - 2))].detach()
    assert float(layer.weight.detach().abs().sum()) == pytest.approx(float(centre.abs().sum()))
    assert not layer.bias.any()
    for block in centre.chunk(groups):
        torch.testing.assert_close(torch.linalg.svdvals(block), torch.ones(min(block.shape)))


@pytest.mark.parametrize(("stride", "reads_inputs"), [(2, False), (1, True)])
def test_a_kernel_with_a_stride_or_on_the_inputs_is_orthogonal_as_a_whole(stride, reads_inputs):
    layer = nn.Conv2d(2, 8, 3, stride=stride)
    make_orthogonal(layer, torch.Generator().manual_seed(0), reads_inputs=reads_inputs)
    torch.testing.assert_close(torch.linalg.svdvals(layer.weight.detach().flatten(1)), torch.ones(8))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(6, 4), (50, 6)),
        (nn.Conv2d(6, 4, 3), (50, 6, 5, 5)),
        (nn.Conv2d(6, 4, 3, groups=2), (50, 6, 5, 5)),
        (nn.ConvTranspose2d(6, 4, 3), (50, 6, 5, 5)),
    ],
    ids=["linear", "convolution", "groups", "transposed"],
)
def test_features_out_of_the_band_are_brought_to_its_edge_and_no_others(layer, shape):
    sizes = torch.tensor([1.0, 1.4, 0.7, 1.0, 1e4, 1e-4])
    x = torch.randn(shape) * sizes.reshape(-1, *[1] * (len(shape) - 2))
    layer.bias = None
    whole = [layer(torch.eye(6)[i].reshape(1, 6, *[1] * (len(shape) - 2)).expand(1, 6, *shape[2:])) for i in range(6)]
    scale_to_features(layer, x)
    after = [layer(torch.eye(6)[i].reshape(1, 6, *[1] * (len(shape) - 2)).expand(1, 6, *shape[2:])) for i in range(6)]
    ratios = [float(b.detach().norm() / a.detach().norm()) for a, b in zip(whole, after, strict=True)]
    assert ratios[:4] == pytest.approx([1.0] * 4)
    assert ratios[4] == pytest.approx(2e-4, rel=0.3)
    assert ratios[5] == pytest.approx(5e3, rel=0.3)


def test_the_gradient_of_every_branch_of_a_fan_out_counts():
    """One core feeds two: their gradients add up in it, and calibrate makes all three alike."""

    class Fork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Linear(8, 32), core(32, -1))
            self.left = nn.Sequential(nn.Linear(32, 32), core(32, -1))
            self.right = nn.Sequential(nn.Linear(32, 32), core(32, -1))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            h = self.stem(x)
            return self.left(h), self.right(h)

    report = prepare(Fork(), vectors(300))
    stem, left, right = report.after.sizes.tolist()
    assert left == pytest.approx(right, rel=0.1)
    assert stem == pytest.approx(math.sqrt((left**2 + right**2) / 2), rel=0.1)
    assert spread(report.after.sizes) <= 1.1


class InPlace(nn.Module):
    """A residual network that adds in place, before or after its cores."""

    def __init__(self, after: bool, in_place: bool) -> None:
        super().__init__()
        self.after, self.in_place = after, in_place
        self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 3)
        self.linears = nn.ModuleList(nn.Linear(16, 16) for _ in range(5))
        self.cores = nn.ModuleList(core(16, -1) for _ in range(5))

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        for linear, act in zip(self.linears, self.cores, strict=True):
            branch = act(linear(h)) if self.after else linear(act(h))
            if self.in_place and self.after:
                branch += h
                h = branch
            elif self.in_place:
                h += branch
            else:
                h = h + branch
        return self.last(h)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("verb", [calibrate, prepare])
def test_additions_in_place_give_the_profile_and_the_slopes_of_those_out_of_place(after, verb):
    x, found = vectors(100), []
    for in_place in (False, True):
        torch.manual_seed(1)
        model = InPlace(after, in_place)
        report = verb(model, x)
        found.append((report.before.sizes, report.after.sizes, report.slopes))
    torch.testing.assert_close(found[0][0], found[1][0])
    for plain, changed in zip(*found, strict=True):  # up to the order in which the sources of a sum are found
        torch.testing.assert_close(plain, changed, rtol=0.02, atol=0)
    assert bool((found[1][1] > 0).all())


@pytest.mark.parametrize("verb", [calibrate, prepare])
def test_activation_checkpoints_are_to_be_switched_off_while_slopes_are_set(verb):
    class Checkpointed(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            for layer in self:
                x = torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=False)
            return x

    blocks = [nn.Sequential(nn.Linear(8, 8), core(8, -1), nn.Linear(8, 8), core(8, -1)) for _ in range(4)]
    x = vectors(100)
    profile = gradient_profile(Checkpointed(*blocks), x)
    torch.testing.assert_close(profile.sizes, gradient_profile(nn.Sequential(*blocks), x).sizes)
    with pytest.raises(ValueError, match="switch checkpoints off while slopes are set"):
        verb(Checkpointed(*blocks), x)


@pytest.mark.parametrize(
    "parametrized",
    [torch.nn.utils.parametrizations.weight_norm, torch.nn.utils.parametrizations.spectral_norm],
    ids=["weight norm", "spectral norm"],
)
def test_prepare_refuses_weights_that_are_computed_and_changes_nothing(parametrized):
    model = nn.Sequential(parametrized(nn.Linear(8, 8)), core(8, -1), nn.Linear(8, 2))
    x, message = vectors(50), r"the weight of layer '0' .* prepare first and parametrize then"
    with untouched(model), pytest.raises(ValueError, match=message):
        prepare(model, x)


def test_every_head_gets_outputs_of_standard_deviation_1():
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = nn.Sequential(nn.Linear(8, 16), core(16, -1), nn.Linear(16, 16), core(16, -1))
            self.first, self.second = nn.Linear(16, 3), nn.Linear(16, 5)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            h = self.trunk(x)
            return self.first(h), self.second(h)

    model, x = Heads(), vectors(200)
    prepare(model, x)
    for output in (head.detach() for head in model(x)):
        assert float((output - output.mean(0)).square().mean().sqrt()) == pytest.approx(1, rel=1e-3)


def deep_and_uncentered(depth):
    layers = [m for i in range(depth) for m in (nn.Linear(16 if i else 8, 16), nn.Sigmoid())]
    return nn.Sequential(*layers, nn.Linear(16, 2))


def test_prepare_warns_of_a_deep_network_of_cores_that_are_not_centered():
    model = deep_and_uncentered(11)
    convert(model)
    with pytest.warns(
        UserWarning, match=r"11 cores are not centered.*sc\.convert\(model, centered=True\) before"
    ) as caught:
        report = prepare(model, vectors(100))
    assert caught[0].filename == __file__
    assert any("not centered" in note for note in report.notes)


def test_prepare_says_nothing_of_centered_or_shallow_cores():
    for depth, centered in ((10, False), (11, True)):
        model = deep_and_uncentered(depth)
        convert(model, centered=centered)
        assert not any("not centered" in note for note in prepare(model, vectors(100)).notes)
