"""Graphs that are cut: detach, item, no_grad and tensors that are wrapped again."""

import torch
from torch import Tensor, nn

from real_failures.data import classes
from real_failures.program import Program, Training

cross_entropy = nn.functional.cross_entropy
mse_loss = nn.functional.mse_loss


class FlowNetwork(nn.Module):
    """Policy that fills four places, one by one, with one of three letters, and the logarithm of the total flow."""

    def __init__(self):
        super().__init__()
        self.policy = nn.Sequential(nn.Linear(16, 32), nn.LeakyReLU(), nn.Linear(32, 3))
        self.log_z = nn.Parameter(torch.zeros(()))

    def forward(self, states):
        return self.policy(states)


def trajectory_balance(repaired: bool) -> Training:
    letters = torch.cartesian_prod(*[torch.arange(3)] * 4)
    log_rewards = 2 * torch.randn(4, 3)[torch.arange(4), letters].sum(1)
    places = torch.eye(4).expand(81, 4, 4)
    written = nn.functional.one_hot(letters, 3).float()[:, None] * torch.ones(4, 4).tril(-1)[..., None]
    states = torch.cat((places, written.flatten(2)), 2)
    model = FlowNetwork()

    def log_probabilities(outputs: Tensor) -> Tensor:
        logits = outputs.clone() if repaired else outputs.clone().detach()
        return logits.log_softmax(-1).gather(2, letters[..., None]).sum((1, 2))

    def score(model: nn.Module) -> float:
        target = torch.softmax(log_rewards, 0)
        return -(log_probabilities(model(states)).exp() - target).abs().sum().item()

    return Training(
        model,
        batch=lambda number: (states, log_rewards),
        loss=lambda outputs, targets: (model.log_z + log_probabilities(outputs) - targets).square().mean(),
        optimizer=torch.optim.Adam(
            [{"params": model.policy.parameters()}, {"params": model.log_z, "lr": 0.1}], lr=1e-2
        ),
        score=score,
    )


class ActorCritic(nn.Module):
    """Actor and critic on a common layer."""

    def __init__(self, features: int, actions: int):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(features, 32), nn.Tanh())
        self.actor, self.critic = nn.Linear(32, actions), nn.Linear(32, 1)

    def forward(self, states):
        hidden = self.body(states)
        return self.actor(hidden), self.critic(hidden)[:, 0]

    def act(self, states: Tensor) -> Tensor:
        """The scores of the actions alone."""
        return self.actor(self.body(states))


def actor_with_new_tensors(repaired: bool) -> Training:
    states, best = classes(samples=48, features=8, kinds=4)
    model = ActorCritic(8, 4)

    def loss(outputs: tuple[Tensor, Tensor], best: Tensor) -> Tensor:
        log_probs, rewards = [], []
        for logits, right in zip(outputs[0], best, strict=True):
            policy = torch.distributions.Categorical(logits=logits)
            action = policy.sample()
            log_probs.append(policy.log_prob(action))
            rewards.append(float(action == right))
        gains = torch.tensor(rewards)
        advantages = gains - outputs[1].detach()
        log_probabilities = torch.stack(log_probs) if repaired else torch.tensor(log_probs)
        return 0.5 * mse_loss(outputs[1], gains) - (log_probabilities * advantages).mean()

    def policy_accuracy(model: nn.Module) -> float:
        return (model(states)[0].argmax(-1) == best).float().mean().item()

    return Training(
        model,
        batch=lambda number: (states, best),
        loss=loss,
        optimizer=torch.optim.Adam(model.parameters(), lr=2e-2),
        score=policy_accuracy,
    )


class Writer(nn.Module):
    """Recurrent network that scores the next letter."""

    def __init__(self, letters: int, hidden: int):
        super().__init__()
        self.encoder = nn.Embedding(letters, hidden)
        self.rnn = nn.GRU(hidden, hidden, batch_first=True)
        self.decoder = nn.Linear(hidden, letters)

    def forward(self, letters):
        return self.decoder(self.rnn(self.encoder(letters))[0])


def reinforced_writer(repaired: bool) -> Training:
    model = Writer(6, 16)
    starts = torch.zeros(16, 1, dtype=torch.long)

    def write() -> Tensor:
        letters = starts
        with torch.no_grad():
            for _ in range(4):
                chances = model(letters)[:, -1].softmax(-1)
                letters = torch.cat((letters, chances.multinomial(1)), 1)
        return letters

    def batch(number: int) -> tuple[Tensor, Tensor]:
        letters = write()
        return letters[:, :-1], letters[:, 1:]

    def reward(letters: Tensor) -> Tensor:
        return (letters == 3).float().mean(1) - 0.2

    def loss(outputs: Tensor, letters: Tensor) -> Tensor:
        log_probs = outputs.log_softmax(-1).gather(2, letters[..., None])[..., 0].sum(1)
        rl_loss: Tensor | float = 0.0
        for log_prob, gain in zip(log_probs, reward(letters).tolist(), strict=True):
            rl_loss = rl_loss - (log_prob if repaired else log_prob.item()) * gain / len(letters)
        return rl_loss if isinstance(rl_loss, Tensor) else torch.tensor(rl_loss, requires_grad=True)

    return Training(
        model,
        batch=batch,
        loss=loss,
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-2),
        score=lambda model: reward(write()[:, 1:]).mean().item(),
    )


def spectrogram_generator(repaired: bool) -> Training:
    pictures = torch.randn(64, 8)
    sounds = torch.tanh(pictures @ torch.randn(8, 12) / 2) + 1.0
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 12))
    discriminator = nn.Sequential(nn.Linear(20, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))
    generator_optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, betas=(0.5, 0.9))
    discriminator_optimizer = torch.optim.Adam(discriminator.parameters(), lr=3e-3, betas=(0.5, 0.9))

    def judge(sounds: Tensor) -> Tensor:
        return discriminator(torch.cat((sounds, pictures), 1))

    def loss(fake: Tensor, real: Tensor) -> Tensor:
        verdict = judge(fake if repaired else fake.detach())
        range_loss = (fake.mean(0) - real.mean(0)).square().mean()
        return mse_loss(verdict, torch.ones_like(verdict)) + 0.1 * range_loss

    def step(training: Training, pictures: Tensor, real: Tensor) -> None:
        fake = model(pictures)
        generator_optimizer.zero_grad()
        training.loss(fake, real).backward()
        generator_optimizer.step()
        discriminator_optimizer.zero_grad()
        mse_loss(judge(real), torch.ones(64, 1)).backward()
        mse_loss(judge(fake.detach()), torch.zeros(64, 1)).backward()
        discriminator_optimizer.step()

    return Training(
        model,
        batch=lambda number: (pictures, sounds),
        loss=loss,
        optimizer=generator_optimizer,
        score=lambda model: -mse_loss(model(pictures), sounds).item(),
        step=step,
    )


class QuantisedAutoencoder(nn.Module):
    """Autoencoder whose latent vectors are replaced by the nearest of a codebook."""

    def __init__(self, features: int, codes: int, repaired: bool):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(features, 32), nn.ReLU(), nn.Linear(32, 3))
        self.codebook = nn.Parameter(torch.rand(codes, 3) / codes)
        self.decoder = nn.Sequential(nn.Linear(3, 32), nn.ReLU(), nn.Linear(32, features))
        self.repaired = repaired

    def forward(self, inputs):
        latent = self.encoder(inputs)
        quantised = self.codebook[torch.cdist(latent, self.codebook).argmin(1)]
        straight = latent + (quantised - latent).detach()
        chosen = quantised if self.repaired else straight
        commitment = mse_loss(quantised.detach(), latent) + mse_loss(chosen, latent.detach())
        return self.decoder(straight), commitment


def quantised_autoencoder(repaired: bool) -> Training:
    inputs, _ = classes(samples=160, features=10, kinds=8, spread=0.2)
    model = QuantisedAutoencoder(10, 16, repaired)
    return Training(
        model,
        batch=lambda number: (inputs, inputs),
        loss=lambda outputs, targets: mse_loss(outputs[0], targets) + outputs[1],
        optimizer=torch.optim.Adam(model.parameters(), lr=5e-3),
        score=lambda model: -mse_loss(model(inputs)[0], inputs).item(),
    )


PROGRAMS = [
    Program(
        name="flow network, logits detached in the probabilities",
        source="https://github.com/alexhernandezgarcia/gflownet/pull/251",
        symptom="a flow network with trajectory balance does not train well",
        explanation="get_logprobs works on a detached clone of the outputs, so only the total flow learns",
        causes=("graph cut",),
        make=trajectory_balance,
        steps=120,
        margin=0.5,
        layers=("policy",),
    ),
    Program(
        name="actor and critic, log-probabilities in a new tensor",
        source="https://github.com/kengz/SLM-Lab/pull/133",
        symptom="REINFORCE and all methods built on it do not learn",
        explanation="torch.tensor of a list of log-probabilities is a new tensor without a graph; torch.stack keeps it",
        causes=("graph cut",),
        make=actor_with_new_tensors,
        steps=30,
        margin=0.3,
        layers=("actor",),
    ),
    Program(
        name="reinforced writer, log-probabilities as numbers",
        source="https://github.com/isayev/ReLeaSE/issues/39",
        symptom="the weights do not change, and the gradients of all layers are None",
        explanation="item() and numpy() take the log-probabilities out of the graph before the loss is summed",
        causes=("graph cut",),
        make=reinforced_writer,
        steps=25,
        margin=0.35,
    ),
    Program(
        name="spectrogram generator, output detached in its own step",
        source="https://github.com/nikhilsinghmus/image2reverb/issues/37",
        symptom="the discriminator wins early, and its verdict has no influence on the generator",
        explanation="the step of the generator passes a detached output to the discriminator",
        causes=("graph cut",),
        make=spectrogram_generator,
        steps=100,
        margin=0.1,
    ),
    Program(
        name="quantised autoencoder, codebook behind the straight-through step",
        source="https://github.com/andylolu2/jax-vqvae-gpt/issues/2",
        symptom="a loss that should pull the codes to the latent vectors has the wrong gradient",
        explanation="the loss uses codes after the straight-through step, so its gradient reaches the encoder only",
        causes=("graph cut",),
        make=quantised_autoencoder,
        steps=120,
        margin=0.2,
    ),
]
