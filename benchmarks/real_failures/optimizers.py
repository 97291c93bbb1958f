"""Optimizers that hold some of the parameters only, or those of another model."""

import torch
from torch import Tensor, nn

from real_failures.data import accuracy, classes, images, line, negative_error
from real_failures.program import Program, Training

cross_entropy = nn.functional.cross_entropy
mse_loss = nn.functional.mse_loss


class Tagger(nn.Module):
    """Encoder, a layer of tag scores, and a conditional random field whose transitions depend on the last tag."""

    def __init__(self, vocabulary: int, tags: int):
        super().__init__()
        self.encoder = nn.Sequential(nn.Embedding(vocabulary, 16), nn.Linear(16, 16), nn.Tanh())
        self.fc = nn.Linear(16, tags)
        self.crf = nn.ParameterDict({"transitions": 0.1 * torch.randn(tags, tags)})

    def forward(self, words):
        return self.fc(self.encoder(words))

    def loss(self, emissions: Tensor, tags: Tensor) -> Tensor:
        """Mean negative log-likelihood of the tags."""
        transitions = self.crf["transitions"]
        path = emissions.gather(2, tags[..., None]).sum((1, 2)) + transitions[tags[:, :-1], tags[:, 1:]].sum(1)
        alpha = emissions[:, 0]
        for emission in emissions[:, 1:].unbind(1):
            alpha = torch.logsumexp(alpha[:, :, None] + transitions, 1) + emission
        return (torch.logsumexp(alpha, 1) - path).mean()


def tagger_without_head_in_optimizer(repaired: bool) -> Training:
    words = torch.randint(30, (48, 6))
    tags = (words + words.roll(1, 1) * torch.tensor([0, 1, 1, 1, 1, 1])) % 4
    model = Tagger(30, 4)
    groups: list[dict] = [{"lr": 3e-3, "params": list(model.encoder.parameters())}]
    head = {"lr": 5e-2, "params": [*model.crf.parameters(), *model.fc.parameters()]}
    if repaired:
        groups.append(head)
    return Training(
        model,
        batch=lambda number: (words, tags),
        loss=model.loss,
        optimizer=torch.optim.AdamW(groups, weight_decay=1e-2),
        score=lambda model: -model.loss(model(words), tags).item(),
    )


class NameClassifier(nn.Module):
    """Recurrent cell by hand: two linear layers on the letter and the last state."""

    def __init__(self, letters: int, hidden: int, languages: int):
        super().__init__()
        self.hidden = hidden
        self.i2h = nn.Linear(letters + hidden, hidden)
        self.i2o = nn.Linear(letters + hidden, languages)

    def forward(self, names):
        state = names.new_zeros(len(names), self.hidden)
        for letter in names.unbind(1):
            both = torch.cat((letter, state), 1)
            state = self.i2h(both)
        return self.i2o(both)


def names_by_a_second_model(repaired: bool) -> Training:
    labels = torch.arange(120) % 6
    letters = torch.softmax(1.5 * torch.randn(6, 10), 1)[labels].multinomial(5, replacement=True)
    names = nn.functional.one_hot(letters, 10).float()
    model = NameClassifier(10, 16, 6)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model = NameClassifier(10, 16, 6)
    if repaired:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return Training(
        model,
        batch=lambda number: (names[number % 4 :: 4], labels[number % 4 :: 4]),
        loss=cross_entropy,
        optimizer=optimizer,
        score=lambda model: accuracy(model, names, labels),
    )


def finetuning_after_pruning(repaired: bool) -> Training:
    inputs, labels = images(samples=60, kinds=6)
    model = nn.Sequential(
        *(nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Linear(16, 6),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(10):
        optimizer.zero_grad()
        cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    kept = model[4].weight.detach().abs().sum((1, 2, 3)).argsort()[-6:]
    smaller = nn.Sequential(nn.Conv2d(16, 6, 3), nn.BatchNorm2d(6), nn.Linear(6, 6))
    smaller[0].weight.data, smaller[0].bias.data = model[4].weight.data[kept], model[4].bias.data[kept]
    smaller[2].weight.data, smaller[2].bias.data = model[9].weight.data[:, kept], model[9].bias.data
    for place, layer in zip((4, 5, 9), smaller, strict=True):
        model[place] = layer
    if repaired:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return Training(
        model,
        batch=lambda number: (inputs, labels),
        loss=cross_entropy,
        optimizer=optimizer,
        score=lambda model: -cross_entropy(model.eval()(inputs), labels).item(),
    )


class VariationalAutoencoder(nn.Module):
    """Encoder to mean and logarithm of the variance, decoder from a sample."""

    def __init__(self, features: int, latent: int):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(features, 32), nn.ReLU())
        self.mean, self.log_variance = nn.Linear(32, latent), nn.Linear(32, latent)
        self.decoder = nn.Sequential(nn.Linear(latent, 32), nn.ReLU(), nn.Linear(32, features))

    def forward(self, inputs):
        hidden = self.encoder(inputs)
        mean, log_variance = self.mean(hidden), self.log_variance(hidden)
        noise = torch.randn_like(mean) if self.training else 0.0
        return self.decoder(mean + (0.5 * log_variance).exp() * noise), mean, log_variance


def negative_evidence(outputs: tuple[Tensor, Tensor, Tensor], targets: Tensor) -> Tensor:
    """Squared error and the divergence of the latent variables from a normal distribution."""
    mean, log_variance = outputs[1:]
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean()
    return mse_loss(outputs[0], targets) + 0.01 * divergence


def autoencoder_of_encoder_parameters(repaired: bool) -> Training:
    inputs, _ = classes(samples=128, features=16, kinds=5, spread=0.3)
    model = VariationalAutoencoder(16, 4)
    encoder = [*model.encoder.parameters(), *model.mean.parameters(), *model.log_variance.parameters()]
    return Training(
        model,
        batch=lambda number: (inputs, inputs),
        loss=negative_evidence,
        optimizer=torch.optim.Adam(model.parameters() if repaired else encoder, lr=5e-3),
        score=lambda model: -mse_loss(model.eval()(inputs)[0], inputs).item(),
    )


class TextAutoencoder(nn.Module):
    """A pretrained body, and around it linear layers to and from latent variables."""

    def __init__(self, vocabulary: int, length: int, latent: int):
        super().__init__()
        self.body = nn.ModuleDict(
            {
                "shared": nn.Embedding(vocabulary, 16),
                "encoder": nn.GRU(16, 16, batch_first=True),
                "decoder": nn.Linear(16, 16 * length),
                "head": nn.Linear(16, vocabulary),
            }
        )
        self.z_linear = nn.Linear(16, 2 * latent, bias=False)
        self.from_z = nn.Linear(latent, 16, bias=False)

    def forward(self, words):
        mean, log_variance = self.z_linear(self.body["encoder"](self.body["shared"](words))[1][0]).chunk(2, 1)
        noise = torch.randn_like(mean) if self.training else 0.0
        hidden = self.body["decoder"](torch.tanh(self.from_z(mean + (0.5 * log_variance).exp() * noise)))
        logits = self.body["head"](hidden.unflatten(1, (words.shape[1], 16)))
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean()
        return logits, divergence


def text_autoencoder_of_the_body(repaired: bool) -> Training:
    words = torch.randint(8, (24, 4)).repeat(3, 1)
    model = TextAutoencoder(8, 4, 4)

    def loss(outputs: tuple[Tensor, Tensor], targets: Tensor) -> Tensor:
        return cross_entropy(outputs[0].transpose(1, 2), targets) + 0.05 * outputs[1]

    return Training(
        model,
        batch=lambda number: (words, words),
        loss=loss,
        optimizer=torch.optim.AdamW((model if repaired else model.body).parameters(), lr=1e-2),
        score=lambda model: (model.eval()(words)[0].argmax(-1) == words).float().mean().item(),
    )


def second_network_with_the_first_optimizer(repaired: bool) -> Training:
    inputs, targets = line(features=6)
    model: nn.Module = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-2)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1))
    if repaired:
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-2)
    return Training(
        model,
        batch=lambda number: (inputs, targets[:, None]),
        loss=mse_loss,
        optimizer=optimizer,
        score=lambda model: negative_error(model, inputs, targets),
    )


class Policy(nn.Module):
    """Features of an image, from which an actor and a critic start."""

    def __init__(self, actions: int):
        super().__init__()
        self.feature = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(200, 8))
        self.actor = nn.Linear(8, actions)
        self.critic = nn.Linear(8, 1)

    def forward(self, images):
        return self.actor(self.feature(images))


def actor_and_critic_without_features(repaired: bool) -> Training:
    inputs, best = images(samples=80, kinds=8)
    model = Policy(8)
    shared = model.feature.parameters() if repaired else ()
    groups = [{"params": [*model.actor.parameters(), *shared]}, {"params": model.critic.parameters()}]

    def policy_loss(outputs: Tensor, best: Tensor) -> Tensor:
        value = model.critic(model.feature(inputs).detach())[:, 0]
        policy = torch.distributions.Categorical(logits=outputs)
        actions = policy.sample()
        rewards = (actions == best).float()
        advantage = rewards - value.detach()
        return -(policy.log_prob(actions) * advantage).mean() + 0.5 * mse_loss(value, rewards)

    return Training(
        model,
        batch=lambda number: (inputs, best),
        loss=policy_loss,
        optimizer=torch.optim.Adam(groups, lr=1e-2),
        score=lambda model: accuracy(model, inputs, best),
    )


class IdentityLoss(nn.Module):
    """Cross-entropy of a classifier on embeddings; the classifier is a part of the loss."""

    def __init__(self, features: int, identities: int):
        super().__init__()
        self.classifier = nn.Linear(features, identities)

    def forward(self, embeddings, labels):
        return cross_entropy(self.classifier(embeddings), labels)


def tracker_with_a_layer_in_the_loss(repaired: bool) -> Training:
    inputs, labels = classes(samples=240, features=12, kinds=40, spread=0.5)
    model = nn.Sequential(nn.Linear(12, 48), nn.ReLU(), nn.Linear(48, 4))
    loss = IdentityLoss(4, 40)
    parameters = [*model.parameters(), *loss.parameters()] if repaired else model.parameters()
    return Training(
        model,
        batch=lambda number: (inputs, labels),
        loss=loss,
        optimizer=torch.optim.Adam(parameters, lr=1e-2),
        score=lambda model: accuracy(nn.Sequential(model, loss.classifier), inputs, labels),
    )


PROGRAMS = [
    Program(
        name="entity tagger, head and random field not in the optimizer",
        source="https://github.com/zjunlp/HVPNeT/issues/5",
        symptom="the reader doubts that the random field and the linear layer of a tagger train at all",
        explanation="the groups for crf and fc are built, but never appended to the list that the optimizer gets",
        causes=("parameters not in the optimizer",),
        make=tagger_without_head_in_optimizer,
        steps=25,
        margin=0.3,
        layers=("fc", "crf"),
    ),
    Program(
        name="names by a model that is built twice",
        source="https://github.com/spro/practical-pytorch/issues/9",
        symptom="with optimizer.step() instead of updates by hand the loss moves up and down and does not fall",
        explanation="the model is built a second time after the optimizer, which updates the first one",
        causes=("parameters not in the optimizer",),
        make=names_by_a_second_model,
        steps=120,
        margin=0.2,
    ),
    Program(
        name="fine-tuning of a pruned network",
        source="https://github.com/microsoft/nni/issues/4521",
        symptom="the parameters of the pruned layers stay the same during fine-tuning",
        explanation="pruning replaces layers by smaller ones, and the optimizer still holds the old parameters",
        causes=("parameters not in the optimizer",),
        make=finetuning_after_pruning,
        steps=30,
        margin=0.5,
        layers=("4", "5", "9"),
    ),
    Program(
        name="variational autoencoder whose optimizer holds the encoder",
        source="https://github.com/zdebruine/MMVAE/issues/39",
        symptom="the optimizer of the shared autoencoder gets the parameters of one half",
        explanation="the parameters of the encoder are passed, those of the decoder are forgotten",
        causes=("parameters not in the optimizer",),
        make=autoencoder_of_encoder_parameters,
        steps=60,
        margin=0.3,
        layers=("decoder",),
    ),
    Program(
        name="text autoencoder, latent layers not in the optimizer",
        source="https://github.com/ImKeTT/PCAE/issues/5",
        symptom="the optimizer of the fine-tuning stage does not hold the linear layer of mean and variance",
        explanation="the optimizer holds the pretrained model, not the new layers of the latent variables",
        causes=("parameters not in the optimizer",),
        make=text_autoencoder_of_the_body,
        steps=80,
        margin=0.12,
        layers=("z_linear", "from_z"),
    ),
    Program(
        name="second network with the optimizer of the first",
        source="https://github.com/pytorch/pytorch/issues/54765",
        symptom="the asker replaces a network by another one and wonders whether the optimizer follows",
        explanation="the optimizer has to be built again: it knows the parameters of the old network only",
        causes=("parameters not in the optimizer",),
        make=second_network_with_the_first_optimizer,
        steps=40,
        margin=5.0,
    ),
    Program(
        name="actor and critic whose convolutions no optimizer holds",
        source="https://github.com/SforAiDl/genrl/issues/315",
        symptom="the weights of the convolutions in agents with images do not change",
        explanation="the optimizers get the parameters of actor and critic, not those of the shared features",
        causes=("parameters not in the optimizer",),
        make=actor_and_critic_without_features,
        steps=50,
        margin=0.18,
        layers=("feature",),
    ),
    Program(
        name="tracker, classifier inside the loss not trained",
        source="https://github.com/ifzhang/FairMOT/issues/223",
        symptom="a reader finds layers in the loss of a tracker, and an optimizer for the network only",
        explanation="the classifier of identities is a part of the loss, and its parameters are in no optimizer",
        causes=("parameters not in the optimizer",),
        make=tracker_with_a_layer_in_the_loss,
        steps=80,
        margin=0.2,
    ),
]
