"""Vector quantisation: codebooks that do not learn, encoders that get no gradient."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modern_failures_strangers.data import clusters
from modern_failures_strangers.networks import MLP
from modern_failures_strangers.program import Program
from real_failures.program import Training


class Quantiser(nn.Module):
    """The nearest code for each vector."""

    def __init__(self, codes: int = 32, width: int = 4, spread: float = 1.0):
        super().__init__()
        self.codes = nn.Embedding(codes, width)
        nn.init.normal_(self.codes.weight, std=spread)

    def forward(self, vectors: Tensor) -> Tensor:
        return self.codes(torch.cdist(vectors, self.codes.weight).argmin(1))


class Autoencoder(nn.Module):
    """VQ-VAE; `straight` decides how the gradient passes the quantiser."""

    def __init__(self, straight: str = "usual", spread: float = 1.0):
        super().__init__()
        self.encoder, self.quantiser, self.decoder = MLP(16, 64, 4), Quantiser(spread=spread), MLP(4, 64, 16)
        self.straight = straight

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        vectors = self.encoder(points)
        codes = self.quantiser(vectors)
        passed = vectors + (codes - vectors).detach() if self.straight != "none" else codes
        if self.straight == "too early":
            codes = passed
        return self.decoder(passed), vectors, codes


def vq(model: Autoencoder, codebook: float = 1.0, commitment: float = 0.25) -> Training:
    """The training of a VQ-VAE; the score is minus the error of new points."""
    points, _ = clusters(2048, classes=24, width=16, noise=0.3)

    def loss(outputs: tuple[Tensor, Tensor, Tensor], targets: Tensor) -> Tensor:
        reconstruction, vectors, codes = outputs
        towards_the_vectors = F.mse_loss(codes, vectors.detach())
        towards_the_codes = F.mse_loss(vectors, codes.detach())
        return F.mse_loss(reconstruction, targets) + codebook * towards_the_vectors + commitment * towards_the_codes

    def batch(step: int) -> tuple[Tensor, Tensor]:
        some = points[torch.randint(1792, (128,))]
        return some, some

    @torch.no_grad()
    def score(model: Autoencoder) -> float:
        codes = model.quantiser(model.encoder(points[1792:]))
        return -F.mse_loss(model.decoder(codes), points[1792:]).item()

    return Training(model, batch, loss, torch.optim.AdamW(model.parameters(), lr=3e-3), score)


def codebook_loss_after_straight_through(repaired: bool) -> Training:
    return vq(Autoencoder("usual" if repaired else "too early"))


def no_straight_through(repaired: bool) -> Training:
    return vq(Autoencoder("usual" if repaired else "none"), commitment=0.25 if repaired else 0.0)


def codes_far_away(repaired: bool) -> Training:
    return vq(Autoencoder(spread=1.0 if repaired else 30.0))


class Rounded(torch.autograd.Function):
    """Rounding with a gradient; the mistake is in `backward`."""

    @staticmethod
    def forward(ctx, values: Tensor, passes: bool) -> Tensor:
        ctx.passes = passes
        return values.round()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return (gradient if ctx.passes else torch.zeros_like(gradient)), None


class Finite(nn.Module):
    """Finite scalar quantisation: each coordinate is rounded to a few levels."""

    def __init__(self, passes: bool):
        super().__init__()
        self.encoder, self.decoder = MLP(16, 64, 4), MLP(4, 64, 16)
        self.passes = passes

    def forward(self, points: Tensor) -> Tensor:
        return self.decoder(Rounded.apply(2.5 * self.encoder(points).tanh(), self.passes))


def rounded_without_gradient(repaired: bool) -> Training:
    points, _ = clusters(2048, classes=24, width=16, noise=0.3)
    model = Finite(passes=repaired)

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        return -F.mse_loss(model(points), points).item()

    def batch(step: int) -> tuple[Tensor, Tensor]:
        some = points[torch.randint(2048, (128,))]
        return some, some

    return Training(model, batch, F.mse_loss, torch.optim.AdamW(model.parameters(), lr=3e-3), score)


PROGRAMS = [
    Program(
        name="codebook loss behind the straight-through trick",
        source="https://github.com/showlab/Olaf-World/issues/8",
        symptom="the reconstruction improves, the codebook stays at its start",
        explanation="the codebook loss is computed of the output of the trick, where the codes are detached",
        cause="codebook gets no gradient",
        make=codebook_loss_after_straight_through,
        steps=200,
        margin=0.1,
    ),
    Program(
        name="quantiser without the straight-through trick",
        source="",
        symptom="the loss stops high, and the encoder has no gradients",
        explanation="the decoder is given the codes themselves, and the choice of a code has no gradient; "
        "the beginner's VQ-VAE",
        cause="discrete step without gradient",
        make=no_straight_through,
        steps=200,
        margin=0.1,
    ),
    Program(
        name="codes far from the encodings",
        source="",
        symptom="the perplexity of the codebook is a few codes of many",
        explanation="the codes start so far away that one or two are nearest to everything and the others are dead; "
        "known from codebooks that are initialised normally while the encodings are small",
        cause="codebook collapses",
        make=codes_far_away,
        steps=200,
        margin=0.1,
    ),
    Program(
        name="rounding whose backward returns zeros",
        source="",
        symptom="the decoder learns a little, the encoder does not change",
        explanation="the custom function returns the true derivative of rounding, which is zero; "
        "known from first attempts at finite scalar quantisation",
        cause="discrete step without gradient",
        make=rounded_without_gradient,
        steps=200,
        margin=0.1,
    ),
]
