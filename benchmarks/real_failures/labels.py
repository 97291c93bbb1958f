"""Labels and masks that are wrong: of other samples, all alike, ignored where they matter."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from real_failures.data import accuracy, classes, images, minibatches, overlap, rectangles, tokens
from real_failures.program import Program, Training


class LaneQueries(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(8, 2, 32, dropout=0.0, batch_first=True)
        self.kind = nn.Linear(8, 2)

    def forward(self, queries: Tensor) -> Tensor:
        return self.kind(self.encoder(queries))


def background_has_the_label_of_lanes(repaired: bool) -> Training:
    lanes = (torch.rand(64, 6) < 0.4).long()
    queries = torch.randn(64, 6, 8) + lanes[:, :, None] * torch.randn(8)
    targets = torch.full((64, 6), 0 if repaired else 1)
    targets[lanes == 1] = 1
    model = LaneQueries()
    return Training(
        model,
        batch=minibatches(16, queries, targets),
        loss=lambda outputs, targets: F.cross_entropy(outputs.transpose(1, 2), targets),
        optimizer=torch.optim.Adam(model.parameters(), lr=3e-3),
        score=lambda model: accuracy(model, queries, lanes),
    )


class LanguageModel(nn.Module):
    def __init__(self, vocabulary: int):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, 24)
        self.lstm = nn.LSTM(24, 32, batch_first=True)
        self.head = nn.Linear(32, vocabulary)

    def forward(self, text: Tensor) -> Tensor:
        return self.head(self.lstm(self.embedding(text))[0])


def padding_is_the_end_of_sequence(repaired: bool) -> Training:
    start = torch.randint(8, (96, 1))
    text = start + torch.arange(12)
    ends = text == 10
    text = torch.where(text > 10, 11 if repaired else 10, text)
    model = LanguageModel(12)
    ignored = 11 if repaired else 10

    def end_of_sequence(model: nn.Module) -> float:
        with torch.no_grad():
            return (model(text[:, :-1]).argmax(-1)[ends[:, 1:]] == 10).float().mean().item()

    return Training(
        model,
        batch=minibatches(32, text[:, :-1], text[:, 1:]),
        loss=lambda outputs, targets: F.cross_entropy(outputs.transpose(1, 2), targets, ignore_index=ignored),
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-2),
        score=end_of_sequence,
    )


class CausalTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(16, 32), nn.Embedding(12, 32)
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
        self.head = nn.Linear(32, 16)

    def forward(self, text: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(text.shape[1])
        embedded = self.tokens(text) + self.places.weight[: text.shape[1]]
        return self.head(self.layer(embedded, mask, is_causal=True))


def targets_not_shifted(repaired: bool) -> Training:
    text, following = tokens()
    model = CausalTransformer()
    return Training(
        model,
        batch=minibatches(32, text, following if repaired else text),
        loss=lambda outputs, targets: F.cross_entropy(outputs.transpose(1, 2), targets),
        optimizer=torch.optim.Adam(model.parameters(), lr=3e-3),
        score=lambda model: accuracy(model, text, following),
    )


def labels_from_paths(repaired: bool) -> Training:
    pictures, kinds = images(128, channels=3, kinds=2)
    paths = [f"data\\train\\{'automobile' if kind else 'airplane'}\\{n}.jpg" for n, kind in enumerate(kinds)]
    separator = "\\" if repaired else "/"
    labels = torch.tensor([float(f"{separator}automobile{separator}" in path) for path in paths])
    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten()),
        *(nn.Dropout(0.1), nn.Linear(72, 16), nn.ReLU(), nn.Linear(16, 1), nn.Sigmoid()),
    )
    return Training(
        model,
        batch=minibatches(32, pictures, labels[:, None]),
        loss=nn.BCELoss(),
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-3),
        score=lambda model: ((model.eval()(pictures) > 0.5).squeeze(1) == kinds).float().mean().item(),
    )


def inputs_shuffled_without_labels(repaired: bool) -> Training:
    inputs, labels = classes()
    order = torch.randperm(256)
    model = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 4))
    return Training(
        model,
        batch=minibatches(64, inputs[order], labels[order] if repaired else labels),
        loss=nn.CrossEntropyLoss(),
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-2),
        score=lambda model: accuracy(model, inputs, labels),
    )


def masks_shifted_by_themselves(repaired: bool) -> Training:
    pictures, masks = rectangles()
    model = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 1)),
    )

    def augmented(step: int) -> tuple[Tensor, Tensor]:
        one, other = torch.randint(-3, 4, (2, 2)).tolist()
        return pictures.roll(one, (2, 3)), masks.roll(one if repaired else other, (2, 3))

    return Training(
        model,
        batch=augmented,
        loss=nn.BCEWithLogitsLoss(),
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-2),
        score=lambda model: overlap(model, pictures, masks),
    )


def first_class_is_the_background(repaired: bool) -> Training:
    patches, kinds = images(192, kinds=3)
    labels = torch.where(kinds == 2, 0, kinds + 1 if repaired else kinds)
    model = nn.Sequential(
        *(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(200, 16), nn.ReLU()),
        nn.Linear(16, 3 if repaired else 2),
    )

    def found(model: nn.Module) -> float:
        objects = kinds < 2
        with torch.no_grad():
            classes = model(patches[objects]).argmax(1) - (1 if repaired else 0)
        return ((classes == kinds[objects]) & (classes >= (0 if repaired else 1))).float().mean().item()

    return Training(
        model,
        batch=minibatches(64, patches, labels),
        loss=nn.CrossEntropyLoss(),
        optimizer=torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
        score=found,
    )


def masks_in_the_order_of_the_disk(repaired: bool) -> Training:
    pictures, masks = rectangles()
    order = torch.arange(64) if repaired else torch.randperm(64)
    model = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.ConvTranspose2d(8, 8, 4, 2, 1), nn.ReLU(), nn.Conv2d(8, 1, 3, 1, 1)),
        nn.Sigmoid(),
    )

    def dice(outputs: Tensor, targets: Tensor) -> Tensor:
        return 1 - (2 * (outputs * targets).sum() + 1) / (outputs.sum() + targets.sum() + 1)

    return Training(
        model,
        batch=minibatches(16, pictures, masks[order]),
        loss=dice,
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-2),
        score=lambda model: overlap(model, pictures, masks, 0.5),
    )


class TextEncoder(nn.Module):
    def __init__(self, padding: int):
        super().__init__()
        self.padding = padding
        self.embedding = nn.Embedding(13, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.head = nn.Linear(16, 2)

    def forward(self, text: Tensor) -> Tensor:
        hidden = text == self.padding
        encoded = self.layer(self.embedding(text), src_key_padding_mask=hidden)
        seen = (~hidden).float()[:, :, None]
        return self.head((encoded * seen).sum(1) / seen.sum(1))


def exclamation_marks_are_padding(repaired: bool) -> Training:
    labels = torch.arange(384) % 2
    text = torch.randint(1, 12, (384, 10))
    lengths = torch.randint(5, 11, (384, 1))
    text[torch.arange(384), (torch.rand(384) * lengths.squeeze(1)).long()] *= 1 - labels
    padding = 12 if repaired else 0
    text[torch.arange(10) >= lengths] = padding
    model = TextEncoder(padding)
    return Training(
        model,
        batch=minibatches(64, text[:256], labels[:256]),
        loss=nn.CrossEntropyLoss(),
        optimizer=torch.optim.Adam(model.parameters(), lr=5e-3),
        score=lambda model: accuracy(model, text[256:], labels[256:]),
    )


PROGRAMS = [
    Program(
        name="lane detector whose background has the label of lanes",
        source="https://github.com/liuruijin17/LSTR/issues/50",
        symptom="the classification loss can always be zero",
        explanation="targets are filled with num_classes, which is 1, and so is the label of lanes: all are alike",
        causes=("data wrong",),
        make=background_has_the_label_of_lanes,
        steps=60,
        margin=0.25,
    ),
    Program(
        name="language model that never stops, padding is the end token",
        source="https://github.com/wenet-e2e/wesr/pull/5",
        symptom="the trained model cannot stop its output",
        explanation="the end token serves as padding, which the loss ignores, so it is never learnt",
        causes=("data wrong",),
        make=padding_is_the_end_of_sequence,
        steps=60,
        margin=0.5,
        visible="training",
    ),
    Program(
        name="causal transformer with targets that are not shifted",
        source="https://github.com/Project-MONAI/GenerativeModels/issues/314",
        symptom="the transformer does not predict the next token",
        explanation="targets are the inputs, so the model predicts a token that it sees",
        causes=("data wrong",),
        make=targets_not_shifted,
        steps=60,
        margin=0.5,
    ),
    Program(
        name="airplanes and automobiles, labels from paths of Windows",
        source="https://github.com/lyhue1991/eat_tensorflow2_in_30_days/issues/23",
        symptom="the accuracy is 1.0 and the loss 1e-9 after one epoch",
        explanation="the labels are read from paths with slashes; on Windows all of them are 0",
        causes=("data wrong",),
        make=labels_from_paths,
        steps=80,
        margin=0.25,
    ),
    Program(
        name="inputs shuffled without their labels",
        source="https://github.com/DrexelChatbotGroup/DrexelChatbot/issues/15",
        symptom="the trained classifier is not better than chance",
        explanation="the order of x is randomised and that of y is not",
        causes=("data wrong",),
        make=inputs_shuffled_without_labels,
        steps=60,
        margin=0.33,
        visible="training",
    ),
    Program(
        name="segmentation with masks that are augmented by themselves",
        source="https://github.com/mdbloice/Augmentor/issues/209",
        symptom="images and masks do not line up after the augmentation",
        explanation="the random shift is drawn for each image, so mask and picture get different ones",
        causes=("data wrong",),
        make=masks_shifted_by_themselves,
        steps=80,
        margin=0.29,
        visible="training",
    ),
    Program(
        name="detector that never finds its first class",
        source="https://github.com/microsoft/computervision-recipes/pull/315",
        symptom="one class is never found",
        explanation="label 0 means background, and the labels of the objects start with 0",
        causes=("data wrong",),
        make=first_class_is_the_background,
        steps=60,
        margin=0.25,
        visible="training",
    ),
    Program(
        name="hair segmentation with masks in the order of the disk",
        source="https://github.com/TRANHV-VFA-DO-NOT-USE/MobileAILab-HairColor-iOS/issues/2",
        symptom="the dice coefficient stays low, and the model segments poorly",
        explanation="images and masks are listed in an undefined order, so they do not belong together",
        causes=("data wrong",),
        make=masks_in_the_order_of_the_disk,
        steps=80,
        margin=0.19,
        visible="training",
    ),
    Program(
        name="text encoder that takes exclamation marks for padding",
        source="https://github.com/lucidrains/DALLE2-pytorch/issues/207",
        symptom="a word of the texts is masked",
        explanation="token 0 counts as padding and is a word as well",
        causes=("data wrong",),
        make=exclamation_marks_are_padding,
        steps=80,
        margin=0.22,
        visible="training",
    ),
]
