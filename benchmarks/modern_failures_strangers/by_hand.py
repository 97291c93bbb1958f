"""Loops and gradients by hand: several optimizers, closures, custom functions, parts of the graph that are lost."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modern_failures_strangers.data import agreement, batches, clusters, distance, ring
from modern_failures_strangers.networks import MLP
from modern_failures_strangers.program import Program
from real_failures.program import Training


class Adversaries(nn.Module):
    """A generator of points and its critic, with an optimizer each."""

    def __init__(self) -> None:
        super().__init__()
        self.generator, self.critic = MLP(4, 64, 64, 2), MLP(2, 64, 64, 1)
        self.generator_optimizer = torch.optim.Adam(self.generator.parameters(), lr=1e-3, betas=(0.5, 0.9))
        self.critic_optimizer = torch.optim.Adam(self.critic.parameters(), lr=2e-3, betas=(0.5, 0.9))

    def forward(self, noise: Tensor) -> Tensor:
        return self.generator(noise)


def adversarial(generator_sees_the_critic: bool = True, steps_apart: bool = True) -> Training:
    """A GAN that learns a ring; the score is minus the distance of its points from it."""
    model = Adversaries()

    def step(training: Training, real: Tensor, noise: Tensor) -> None:
        fake = model(noise)
        critic_loss = F.softplus(-model.critic(real)).mean() + F.softplus(model.critic(fake.detach())).mean()
        if not steps_apart:
            critic_loss = F.softplus(-model.critic(real)).mean() + F.softplus(model.critic(fake)).mean()
        model.critic_optimizer.zero_grad()
        model.generator_optimizer.zero_grad()
        critic_loss.backward(retain_graph=not steps_apart)
        if steps_apart:
            model.critic_optimizer.step()
        shown = fake if generator_sees_the_critic else fake.detach()
        generator_loss = F.softplus(-model.critic(shown)).mean()
        if steps_apart:
            model.generator_optimizer.zero_grad()
        generator_loss.backward()
        if not steps_apart:
            model.critic_optimizer.step()
        model.generator_optimizer.step()

    @torch.no_grad()
    def score(model: Adversaries) -> float:
        return -distance(model(torch.randn(512, 4)), ring(512)[0])

    def batch(step: int) -> tuple[Tensor, Tensor]:
        return ring(128)[0], torch.randn(128, 4)

    return Training(model, batch, F.softplus, model.generator_optimizer, score, step)


def generator_without_gradient(repaired: bool) -> Training:
    return adversarial(generator_sees_the_critic=repaired)


def gradients_of_both_losses_mixed(repaired: bool) -> Training:
    return adversarial(steps_apart=repaired)


class Swish(torch.autograd.Function):
    """x * sigmoid(x), with a backward pass by hand that saves memory, or forgets what comes from above."""

    @staticmethod
    def forward(ctx, values: Tensor, with_the_gradient_from_above: bool) -> Tensor:
        ctx.save_for_backward(values)
        ctx.with_the_gradient_from_above = with_the_gradient_from_above
        return values * values.sigmoid()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        (values,) = ctx.saved_tensors
        gate = values.sigmoid()
        own = gate * (1 + values * (1 - gate))
        return (gradient * own if ctx.with_the_gradient_from_above else own), None


class WithSwish(nn.Module):
    """Two layers with the custom function between them."""

    def __init__(self, right: bool):
        super().__init__()
        self.first, self.second = nn.Linear(16, 64), nn.Linear(64, 8)
        self.right = right

    def forward(self, inputs: Tensor) -> Tensor:
        return self.second(Swish.apply(self.first(inputs), self.right))


def backward_without_the_gradient_from_above(repaired: bool) -> Training:
    inputs, labels = clusters(1024, classes=8, width=16, noise=2.0)
    model = WithSwish(right=repaired)

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        return agreement(model(inputs).argmax(-1), labels)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return Training(model, batches(inputs, labels), F.cross_entropy, optimizer, score)


def closure_that_does_not_clear(repaired: bool) -> Training:
    inputs = torch.linspace(-2, 2, 128)[:, None]
    targets = (3 * inputs).sin()
    model = nn.Sequential(nn.Linear(1, 24), nn.Tanh(), nn.Linear(24, 1))
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.3, max_iter=10)

    def step(training: Training, inputs: Tensor, targets: Tensor) -> None:
        def closure() -> Tensor:
            if repaired:
                optimizer.zero_grad()
            loss = training.loss(training.model(inputs), targets)
            loss.backward()
            return loss

        optimizer.step(closure)

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        return -F.mse_loss(model(inputs), targets).item()

    return Training(model, lambda _: (inputs, targets), F.mse_loss, optimizer, score, step)


class Chooser(nn.Module):
    """Chooses one of several vectors and decodes it; the choice by argmax, or softly."""

    def __init__(self, hard: bool):
        super().__init__()
        self.choose, self.vectors, self.decode = MLP(16, 64, 24), nn.Embedding(24, 8), MLP(8, 32, 16)
        self.hard = hard

    def forward(self, inputs: Tensor) -> Tensor:
        scores = self.choose(inputs)
        if self.hard:
            return self.decode(self.vectors(scores.argmax(-1)))
        return self.decode(F.gumbel_softmax(scores, hard=True) @ self.vectors.weight)


def choice_by_argmax(repaired: bool) -> Training:
    points, _ = clusters(2048, classes=12, width=16, noise=0.2)
    model = Chooser(hard=not repaired)

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        return -F.mse_loss(model.decode(model.vectors(model.choose(points).argmax(-1))), points).item()

    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    return Training(model, batches(points, points, size=128), F.mse_loss, optimizer, score)


PROGRAMS = [
    Program(
        name="generator that is given detached pictures",
        source="https://github.com/nikhilsinghmus/image2reverb/issues/37",
        symptom="the discriminator wins very early, and the generator does not answer",
        explanation="in the step of the generator its output is detached before the discriminator sees it",
        cause="graph cut in a generator",
        make=generator_without_gradient,
        steps=300,
        margin=0.2,
    ),
    Program(
        name="generator stepped with the critic's gradients",
        source="https://github.com/Shubhamai/pytorch-vqgan/issues/3",
        symptom="the adversarial loss makes the pictures no better",
        explanation="the fake is not detached for the discriminator, and both losses are summed in the generator's "
        "gradients before its step",
        cause="gradients of two losses mixed",
        make=gradients_of_both_losses_mixed,
        steps=300,
        margin=0.1,
    ),
    Program(
        name="custom backward that forgets the gradient from above",
        source="",
        symptom="the loss falls a little, the layer before the custom function is not trained sensibly",
        explanation="`backward` returns the derivative of the function alone, not multiplied by its argument; "
        "known from the first custom functions that people write",
        cause="backward wrong",
        make=backward_without_the_gradient_from_above,
        steps=150,
        margin=0.1,
    ),
    Program(
        name="closure that does not clear the gradients",
        source="",
        symptom="LBFGS diverges or stops at once",
        explanation="the closure is called several times in a step, and the gradients of all calls are summed; "
        "known from loops in which only the optimizer was exchanged",
        cause="gradients not cleared",
        make=closure_that_does_not_clear,
        steps=20,
        margin=0.1,
    ),
    Program(
        name="choice by argmax in the middle of a network",
        source="",
        symptom="the part before the choice does not learn",
        explanation="argmax has no gradient, so nothing reaches the layers that choose; "
        "known from networks that write tokens and read them again",
        cause="discrete step without gradient",
        make=choice_by_argmax,
        steps=300,
        margin=0.1,
    ),
]
