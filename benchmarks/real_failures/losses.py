"""Losses that get something else than they expect: probabilities for logits, logits for probabilities, other inputs."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from real_failures.data import accuracy, classes, images, minibatches, overlap, rectangles, tokens
from real_failures.program import Program, Training


class TextClassifier(nn.Module):
    def __init__(self, output: nn.Module):
        super().__init__()
        self.embedding = nn.Embedding(32, 32)
        self.encoder = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
        self.classifier = nn.Sequential(nn.Linear(32, 3), output)

    def forward(self, text: Tensor) -> Tensor:
        return self.classifier(self.encoder(self.embedding(text)).mean(1))


def softmax_before_cross_entropy(repaired: bool) -> Training:
    labels = torch.tensor([0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2]).repeat(20)
    text = torch.where(torch.rand(240, 12) < 0.2, 2 + labels[:, None], torch.randint(5, 32, (240, 12)))
    model = TextClassifier(nn.Identity() if repaired else nn.Softmax(-1))
    return Training(
        model,
        batch=minibatches(48, text, labels),
        loss=nn.CrossEntropyLoss(),
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-3),
        score=lambda model: sum(accuracy(model, text[labels == k], labels[labels == k]) for k in range(3)) / 3,
    )


class Recommender(nn.Module):
    def __init__(self, sigmoid: bool):
        super().__init__()
        self.sigmoid = sigmoid
        self.users, self.items = nn.Embedding(40, 8), nn.Embedding(30, 8)
        self.predict = nn.Sequential(nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, pairs: Tensor) -> Tensor:
        user, item = self.users(pairs[:, 0]), self.items(pairs[:, 1])
        score = self.predict(torch.cat([user, item, user * item], 1)).squeeze(1)
        return score.sigmoid() if self.sigmoid else score


def sigmoid_before_its_loss(repaired: bool) -> Training:
    pairs = torch.cartesian_prod(torch.arange(40), torch.arange(30))[torch.randperm(1200)]
    liked = ((pairs[:, 0] % 4) == (pairs[:, 1] % 4)).float()
    model = Recommender(sigmoid=not repaired)
    loss = nn.BCEWithLogitsLoss()

    def negative_loss(model: nn.Module) -> float:
        with torch.no_grad():
            return -loss(model(pairs), liked).item()

    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    return Training(model, minibatches(300, pairs, liked), loss, optimizer, negative_loss)


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return -gradient


class DomainAdversarial(nn.Module):
    def __init__(self, output: type[nn.Module]):
        super().__init__()
        self.extractor = nn.Sequential(nn.Conv2d(1, 8, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
        self.classifier = nn.Sequential(nn.Linear(128, 32), nn.ReLU(), nn.Linear(32, 4), output())
        self.discriminator = nn.Sequential(nn.Linear(128, 32), nn.ReLU(), nn.Linear(32, 2), output())

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        features = self.extractor(pictures)
        return self.classifier(features), self.discriminator(Reversed.apply(features))


def softmax_in_both_heads(repaired: bool) -> Training:
    pictures, labels = images(128)
    pictures = torch.cat([pictures, pictures.roll(64, 0) + 0.5])
    model = DomainAdversarial(nn.Identity if repaired else lambda: nn.Softmax(1))
    domains = torch.arange(256) // 128

    def loss(outputs: tuple[Tensor, Tensor], targets: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(outputs[0][:128], targets[0]) + F.cross_entropy(outputs[1], targets[1])

    def target_accuracy(model: nn.Module) -> float:
        with torch.no_grad():
            return (model(pictures[128:])[0].argmax(1) == labels.roll(64)).float().mean().item()

    return Training(
        model,
        batch=lambda step: (pictures, (labels, domains)),
        loss=loss,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9),
        score=target_accuracy,
    )


class NextLabel(nn.Module):
    def __init__(self, output: nn.Module):
        super().__init__()
        self.embedding = nn.Embedding(32, 16)
        self.lstm = nn.LSTM(16, 32, batch_first=True)
        self.label = nn.Sequential(nn.Linear(32, 32), output)

    def forward(self, labels: Tensor) -> Tensor:
        return self.label(self.lstm(self.embedding(labels))[0])


def probabilities_in_nll(repaired: bool) -> Training:
    before, after = tokens(vocabulary=32)
    model = NextLabel(nn.LogSoftmax(-1) if repaired else nn.Softmax(-1))
    return Training(
        model,
        batch=lambda step: (before, after),
        loss=lambda outputs, targets: F.nll_loss(outputs.flatten(0, 1), targets.flatten()),
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-2),
        score=lambda model: accuracy(model, before, after),
    )


class PointNet(nn.Module):
    def __init__(self, output: nn.Module):
        super().__init__()
        self.points = nn.Sequential(nn.Conv1d(3, 32, 1), nn.ReLU(), nn.Conv1d(32, 32, 1), nn.ReLU())
        self.parts = nn.Sequential(nn.Conv1d(64, 32, 1), nn.ReLU(), nn.Conv1d(32, 2, 1), nn.LogSoftmax(1))
        self.kind = nn.Sequential(nn.Linear(32, 4), output)

    def forward(self, cloud: Tensor) -> tuple[Tensor, Tensor]:
        local = self.points(cloud)
        whole = local.amax(2)
        return self.parts(torch.cat([local, whole[:, :, None].expand_as(local)], 1)), self.kind(whole)


def logits_in_nll(repaired: bool) -> Training:
    kind = torch.arange(64) % 4
    cloud = torch.randn(64, 3, 24) * (0.5 + kind[:, None, None] * torch.tensor([0.5, 0.0, -0.1])[:, None])
    part = (cloud[:, 0] * cloud[:, 1] > 0).long()
    model = PointNet(nn.LogSoftmax(1) if repaired else nn.Identity())

    def loss(outputs: tuple[Tensor, Tensor], targets: tuple[Tensor, Tensor]) -> Tensor:
        return F.nll_loss(outputs[0], targets[0]) + F.nll_loss(outputs[1], targets[1])

    def both(model: nn.Module) -> float:
        with torch.no_grad():
            parts, kinds = model(cloud)
        return ((parts.argmax(1) == part).float().mean() + (kinds.argmax(1) == kind).float().mean()).item() / 2

    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    return Training(model, lambda step: (cloud, (part, kind)), loss, optimizer, both)


def probabilities_in_kl_div(repaired: bool) -> Training:
    inputs = torch.randn(256, 10)
    teacher = (inputs @ torch.randn(10, 5)).div(2).softmax(1)
    student = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 5))

    def loss(outputs: Tensor, teacher: Tensor) -> Tensor:
        return F.kl_div(outputs.log_softmax(1) if repaired else outputs.softmax(1), teacher, reduction="none").mean()

    def divergence(model: nn.Module) -> float:
        with torch.no_grad():
            return -F.kl_div(model(inputs).log_softmax(1), teacher, reduction="batchmean").item()

    optimizer = torch.optim.Adam(student.parameters(), lr=1e-2)
    return Training(student, minibatches(64, inputs, teacher), loss, optimizer, divergence)


def teacher_compared_with_itself(repaired: bool) -> Training:
    pictures, labels = images(256)
    with torch.no_grad():
        centres = torch.stack([pictures[labels == k].mean(0) for k in range(4)])
        teacher = -(pictures[:, None] - centres).square().mean((2, 3, 4)) * 20
    noisy = torch.where(torch.rand(256) < 0.6, torch.randint(4, (256,)), labels)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(200, 4))

    def loss(student: Tensor, targets: tuple[Tensor, Tensor]) -> Tensor:
        noisy, teacher = targets
        soft = F.kl_div(((student if repaired else teacher) / 5).log_softmax(1), (teacher / 5).softmax(1))
        return 100 * soft + 0.5 * F.cross_entropy(student, noisy)

    return Training(
        model,
        batch=lambda step: (pictures[:192], (noisy[:192], teacher[:192])),
        loss=loss,
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-2),
        score=lambda model: accuracy(model, pictures[192:], labels[192:]),
    )


def logarithm_of_logarithms(repaired: bool) -> Training:
    inputs, labels = classes()
    model = nn.Sequential(
        nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 4), nn.Softmax(1) if repaired else nn.LogSoftmax(1)
    )
    return Training(
        model,
        batch=minibatches(64, inputs, labels),
        loss=lambda outputs, targets: F.nll_loss(outputs.log(), targets),
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        score=lambda model: accuracy(model, inputs, labels),
    )


def logits_and_labels_swapped(repaired: bool) -> Training:
    first = torch.randn(64, 20)
    second = first + 0.5 * torch.randn(64, 20)
    model = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 8))

    def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
        return -(labels * logits.log_softmax(-1)).sum(-1).mean()

    def logits(outputs: Tensor) -> Tensor:
        one, other = F.normalize(outputs, dim=-1).unflatten(0, (2, -1))
        return one @ other.T / 0.1

    def loss(outputs: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(logits(outputs), labels) if repaired else cross_entropy(labels, logits(outputs))

    def retrieval(model: nn.Module) -> float:
        with torch.no_grad():
            return (logits(model(torch.cat([first, second]))).argmax(1) == torch.arange(64)).float().mean().item()

    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    return Training(model, lambda step: (torch.cat([first, second]), torch.eye(64)), loss, optimizer, retrieval)


def softmax_of_one_unit(repaired: bool) -> Training:
    pictures, labels = images(128, kinds=2)
    model = nn.Sequential(
        *(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.BatchNorm2d(16), nn.Flatten()),
        *(nn.Linear(400, 16), nn.Linear(16, 1), nn.Sigmoid() if repaired else nn.Softmax(1)),
    )
    return Training(
        model,
        batch=minibatches(32, pictures, labels[:, None].float()),
        loss=nn.BCELoss(),
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-3),
        score=lambda model: ((model.eval()(pictures) > 0.5).squeeze(1) == labels).float().mean().item(),
    )


def dice_of_logits(repaired: bool) -> Training:
    pictures, masks = rectangles()
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 3, padding=1))

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        found = outputs.sigmoid() if repaired else outputs
        return -2 * (found * targets).sum() / (1e-5 + found.sum() + targets.sum())

    return Training(
        model,
        batch=minibatches(16, pictures, masks),
        loss=loss,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.2),
        score=lambda model: overlap(model, pictures, masks),
    )


PROGRAMS = [
    Program(
        name="text classifier with softmax before cross entropy",
        source="https://github.com/illiterate/BertClassifier/issues/2",
        symptom="the loss falls very slowly, and the predictions lean towards the most frequent class",
        explanation="the model ends in a softmax, and CrossEntropyLoss applies another one",
        causes=("loss input wrong",),
        make=softmax_before_cross_entropy,
        steps=45,
        margin=0.1,
    ),
    Program(
        name="recommender with a sigmoid before BCEWithLogitsLoss",
        source="https://github.com/yudi-mars/daisyRec/pull/15",
        symptom="the loss does not converge",
        explanation="the scores pass a sigmoid, and BCEWithLogitsLoss applies another one",
        causes=("loss input wrong",),
        make=sigmoid_before_its_loss,
        steps=100,
        margin=0.16,
    ),
    Program(
        name="domain adaptation with softmax in both heads",
        source="https://github.com/NaJaeMin92/pytorch-DANN/issues/7",
        symptom="the models are hard to train",
        explanation="classifier and discriminator end in a softmax, and CrossEntropyLoss contains one already",
        causes=("loss input wrong",),
        make=softmax_in_both_heads,
        steps=18,
        margin=0.13,
    ),
    Program(
        name="box labels from an LSTM, probabilities in NLLLoss",
        source="https://github.com/jamesli1618/Obj-GAN/issues/30",
        symptom="the label loss is negative all the time, and the results cannot be reproduced",
        explanation="NLLLoss gets probabilities of a softmax, so it minimises -p where -log p is meant",
        causes=("loss input wrong",),
        make=probabilities_in_nll,
        steps=15,
        margin=0.12,
    ),
    Program(
        name="point clouds, raw scores in nll_loss",
        source="https://github.com/yanx27/Pointnet_Pointnet2_pytorch/issues/30",
        symptom="the label loss is negative",
        explanation="nll_loss gets the scores of a linear layer without log_softmax and has no minimum",
        causes=("loss input wrong",),
        make=logits_in_nll,
        steps=60,
        margin=0.2,
    ),
    Program(
        name="distillation with probabilities in kl_div",
        source="https://github.com/microsoft/ProDA/issues/20",
        symptom="the distillation loss differs from the usual one",
        explanation="kl_div expects log-probabilities of the student and gets probabilities",
        causes=("loss input wrong",),
        make=probabilities_in_kl_div,
        steps=150,
        margin=0.8,
    ),
    Program(
        name="distillation that compares the teacher with itself",
        source="https://github.com/labmlai/annotated_deep_learning_paper_implementations/issues/66",
        symptom="no distillation takes place at all",
        explanation="the soft loss gets the teacher's logits twice, so the student has no part in it",
        causes=("graph cut", "loss input wrong"),
        make=teacher_compared_with_itself,
        steps=60,
        margin=0.1,
    ),
    Program(
        name="LogSoftmax in a library that takes the logarithm itself",
        source="https://github.com/skorch-dev/skorch/issues/519",
        symptom="the training loss is NaN from the first batch",
        explanation="the library takes the logarithm of the outputs, which LogSoftmax has made negative",
        causes=("not finite", "loss input wrong"),
        make=logarithm_of_logarithms,
        steps=60,
        margin=0.3,
    ),
    Program(
        name="contrastive loss with logits and labels swapped",
        source="https://github.com/isaaccorley/detcon-pytorch/pull/2",
        symptom="the contrastive loss is computed wrongly",
        explanation="logits and labels are passed to the cross entropy in the wrong order",
        causes=("loss input wrong",),
        make=logits_and_labels_swapped,
        steps=60,
        margin=0.18,
    ),
    Program(
        name="men or women, softmax of one unit",
        source="https://techqa.club/v/q/activation-functions-softmax-vs-sigmoid-65258468",
        symptom="the accuracy is 0.50 and the loss the same in every epoch",
        explanation="the softmax of a single unit is always one; a sigmoid is needed",
        causes=("loss input wrong",),
        make=softmax_of_one_unit,
        steps=60,
        margin=0.2,
    ),
    Program(
        name="dice loss of logits",
        source="https://github.com/jakeret/tf_unet/issues/15",
        symptom="the dice loss operates on logits rather than predictions",
        explanation="the dice coefficient is computed from logits where it needs probabilities",
        causes=("loss input wrong",),
        make=dice_of_logits,
        steps=100,
        margin=0.35,
    ),
]
