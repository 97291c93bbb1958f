"""Mixtures of experts and vector quantisation."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modern_failures_second.common import explained, update
from modern_failures_strangers.data import batches
from modern_failures_strangers.program import Program
from real_failures.program import Training


def regions(rows: int = 1280, count: int = 4, width: int = 8) -> tuple[Tensor, Tensor]:
    """Points in a number of regions, told apart by two of the axes, and what another linear map makes of each."""
    angle = 2 * torch.pi * torch.arange(count) / count
    centres, maps = 3 * torch.stack([angle.cos(), angle.sin()], 1), torch.randn(count, width, 4)
    which = torch.randint(count, (rows,))
    points = torch.cat([centres[which] + 0.7 * torch.randn(rows, 2), 2 * torch.randn(rows, width - 2)], 1)
    values = (points[:, None] @ maps[which])[:, 0]
    return points, values / values.std()


class Mixture(nn.Module):
    """Linear experts, of which the router takes the best `taken`."""

    def __init__(self, normalised: bool = False, put_back: bool = True, taken: int = 1, count: int = 4, width: int = 8):
        super().__init__()
        self.router = nn.Linear(width, count)
        self.experts = nn.ModuleList(nn.Linear(width, 4) for _ in range(count))
        self.normalised, self.put_back, self.taken = normalised, put_back, taken

    def forward(self, points: Tensor) -> Tensor:
        weights, chosen = self.router(points).softmax(-1).topk(self.taken, dim=-1)
        if self.normalised:
            weights = weights / weights.sum(-1, keepdim=True)
        order = chosen.view(-1).argsort(stable=True)
        inputs, which = points.repeat_interleave(self.taken, 0)[order], chosen.view(-1)[order]
        outputs = torch.cat([expert(inputs[which == number]) for number, expert in enumerate(self.experts)])
        if self.put_back:
            outputs = torch.zeros_like(outputs).index_copy(0, order, outputs)
        return (outputs.view(len(points), self.taken, -1) * weights[..., None]).sum(1)


def mixture_training(model: nn.Module, lr: float = 1e-2) -> Training:
    points, values = regions()

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        return explained(model(points[1024:]), values[1024:])

    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    return Training(model, batches(points[:1024], values[:1024], size=64), F.mse_loss, optimizer, score)


def single_weight_normalised(repaired: bool) -> Training:
    return mixture_training(Mixture(normalised=not repaired))


def outputs_in_the_order_of_experts(repaired: bool) -> Training:
    return mixture_training(Mixture(taken=2, normalised=True, put_back=repaired))


class Quantised(nn.Module):
    """Encoder, codebook and decoder.

    `through`: the encoder gets the gradient of the decoder; `learned`: the loss of the codebook is computed before the
    straight-through trick and not after it.
    """

    def __init__(self, through: bool = True, learned: bool = True, width: int = 24, codes: int = 16):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(width, 32), nn.ReLU(), nn.Linear(32, 4))
        self.decoder = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 4))
        self.codes = nn.Embedding(codes, 4)
        nn.init.uniform_(self.codes.weight, -0.3, 0.3)
        self.through, self.learned = through, learned

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        latent = self.encoder(points)
        nearest = torch.cdist(latent, self.codes.weight).argmin(1)
        codes = self.codes(nearest)
        straight = latent + (codes - latent).detach()
        book = F.mse_loss(codes if self.learned else straight, latent.detach())
        loss = book + 0.25 * F.mse_loss(latent, codes.detach())
        return self.decoder(straight if self.through else codes), loss


def quantised_training(model: nn.Module) -> Training:
    centres = 2 * torch.randn(8, 4)
    clean = centres[torch.randint(8, (1280,))]
    points = torch.cat([clean + 0.3 * torch.randn(1280, 4), 2 * torch.randn(1280, 20)], 1)

    def step(training: Training, points: Tensor, clean: Tensor) -> None:
        painted, extra = training.model(points)
        update(training, training.loss(painted, clean) + extra)

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        return explained(model(points[1024:])[0], clean[1024:])

    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    return Training(model, batches(points[:1024], clean[:1024], size=64), F.mse_loss, optimizer, score, step=step)


def no_straight_through(repaired: bool) -> Training:
    return quantised_training(Quantised(through=repaired))


def codebook_loss_after_the_trick(repaired: bool) -> Training:
    return quantised_training(Quantised(learned=repaired))


PROGRAMS = [
    Program(
        name="weight of the only expert normalised",
        source="https://github.com/jingyaogong/minimind/issues/858",
        symptom="the mixture is not better than a dense layer, and its router does not change",
        explanation="with one expert for each token the weight is divided by itself and is always one, so the router "
        "gets no gradient",
        cause="router without gradient",
        make=single_weight_normalised,
        steps=300,
        margin=0.1,
    ),
    Program(
        name="outputs in the order of the experts",
        source="https://github.com/pytorch/torchtitan/pull/1340",
        symptom="the mixture learns only the mean",
        explanation="the tokens are sorted by expert and the outputs are not put back into the order of the tokens",
        cause="rows scrambled",
        make=outputs_in_the_order_of_experts,
        steps=200,
        margin=0.3,
    ),
    Program(
        name="quantiser without straight-through",
        source="https://github.com/zalandoresearch/pytorch-vq-vae/issues/6",
        symptom="the reconstruction stops high and few codes are in use",
        explanation="the decoder gets the codes themselves, and the choice of a code has no gradient: the "
        "encoder learns only from the commitment loss",
        cause="encoder without gradient",
        make=no_straight_through,
        steps=250,
        margin=0.2,
    ),
    Program(
        name="codebook loss of the straight-through output",
        source="https://github.com/showlab/Olaf-World/issues/8",
        symptom="the reconstruction loss falls, and the codebook stays as it was initialised",
        explanation="the loss of the codebook is computed from the output of the straight-through trick, in which the "
        "codes are detached, so no gradient reaches them",
        cause="codebook without gradient",
        make=codebook_loss_after_the_trick,
        steps=250,
        margin=0.1,
    ),
]
