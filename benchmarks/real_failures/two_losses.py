"""Two losses or two optimizers in one loop, of which one disturbs the other."""

import torch
from torch import Tensor, nn

from real_failures.data import classes
from real_failures.program import Program, Training

mse_loss = nn.functional.mse_loss


class CartPole(nn.Module):
    """Common layer, action probabilities, value."""

    def __init__(self, features: int, actions: int):
        super().__init__()
        self.common = nn.Sequential(nn.Linear(features, 32), nn.ReLU())
        self.actor = nn.Sequential(nn.Linear(32, actions), nn.Softmax(1))
        self.critic = nn.Linear(32, 1)

    def forward(self, states):
        hidden = self.common(states)
        return self.actor(hidden), self.critic(hidden)[:, 0]


def cartpole_with_value_in_the_actor_loss(repaired: bool) -> Training:
    states, best = classes(samples=96, features=6, kinds=6, spread=0.7)
    model = CartPole(6, 6)

    def loss(outputs: tuple[Tensor, Tensor], best: Tensor) -> Tensor:
        probabilities, value = outputs
        actions = probabilities.multinomial(1)[:, 0]
        returns = (actions == best).float()
        difference = returns - (value.detach() if repaired else value)
        log_probabilities = probabilities.gather(1, actions[:, None])[:, 0].log()
        return (-log_probabilities * difference).mean() + nn.functional.huber_loss(value, returns)

    return Training(
        model,
        batch=lambda number: (states, best),
        loss=loss,
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-2),
        score=lambda model: (model(states)[0].argmax(1) == best).float().mean().item(),
    )


def discriminator_keeps_gradients(repaired: bool) -> Training:
    real = torch.tensor([2.0, -1.0]) + 0.4 * torch.randn(64, 2)
    model = nn.Sequential(nn.Linear(2, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1), nn.Sigmoid())
    generator = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2))
    discriminator_optimizer = torch.optim.Adam(model.parameters(), lr=2e-3, betas=(0.5, 0.999))
    generator_optimizer = torch.optim.Adam(generator.parameters(), lr=2e-3, betas=(0.5, 0.999))
    ones, zeros = torch.ones(64, 1), torch.zeros(64, 1)

    def step(training: Training, real: Tensor, ones: Tensor) -> None:
        if repaired:
            discriminator_optimizer.zero_grad()
        fake = generator(torch.randn(64, 4))
        training.loss(model(real), ones).backward()
        training.loss(model(fake.detach()), zeros).backward()
        discriminator_optimizer.step()
        generator_optimizer.zero_grad()
        training.loss(model(fake), ones).backward()
        generator_optimizer.step()

    def score(_: nn.Module) -> float:
        fake = generator(torch.randn(64, 4))
        return -((fake.mean(0) - real.mean(0)).norm() + (fake.std(0) - real.std(0)).norm()).item()

    return Training(
        model,
        batch=lambda number: (real, ones),
        loss=nn.functional.binary_cross_entropy,
        optimizer=discriminator_optimizer,
        score=score,
        step=step,
    )


PROGRAMS = [
    Program(
        name="actor and critic, value not detached in the actor loss",
        source="https://github.com/keras-team/keras-io/issues/194",
        symptom="an actor-critic example needs many more steps than it should",
        explanation="the gradient of the actor loss also flows through the value; stopping it cuts the steps greatly",
        causes=("gradient not stopped",),
        make=cartpole_with_value_in_the_actor_loss,
        steps=60,
        margin=0.07,
        layers=("critic",),
    ),
    Program(
        name="adversarial networks, discriminator keeps its gradients",
        source="https://github.com/Adversarial-Deep-Learning/code-soup/issues/69",
        symptom="the step of a generative adversarial network lacks zero_grad for the discriminator",
        explanation="gradients of all earlier steps, those of the generator included, stay in the discriminator",
        causes=("gradients not cleared",),
        make=discriminator_keeps_gradients,
        steps=150,
        margin=0.6,
        visible="training",
    ),
]
