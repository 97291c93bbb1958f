"""Learning rates that are too high or too low, and weight decay that is too strong."""

import torch
from torch import Tensor, nn

from real_failures.data import accuracy, images, negative_error, tokens
from real_failures.program import Program, Training

cross_entropy = nn.functional.cross_entropy
mse_loss = nn.functional.mse_loss


class RegionDetector(nn.Module):
    """Plain deep convolutions, then the kind and the place of the object."""

    def __init__(self, kinds: int):
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in ((1, 16), (16, 16), (16, 32), (32, 32)):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
            if before != after:
                layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers, nn.Flatten(), nn.Linear(288, 64), nn.ReLU())
        self.cls_score, self.bbox_pred = nn.Linear(64, kinds), nn.Linear(64, 2)

    def forward(self, images):
        features = self.features(images)
        return self.cls_score(features), self.bbox_pred(features)


def regions(repaired: bool) -> Training:
    kinds, places = torch.arange(60) % 4, torch.randint(1, 9, (60, 2))
    shapes = 2 * torch.randn(4, 3, 3)
    inputs = 0.1 * torch.randn(60, 1, 12, 12)
    for image, kind, (row, column) in zip(inputs, kinds, places, strict=True):
        image[0, row : row + 3, column : column + 3] += shapes[kind]
    model = RegionDetector(4)
    for layer in model.features:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight)

    def loss(outputs: tuple[Tensor, Tensor], targets: tuple[Tensor, Tensor]) -> Tensor:
        return cross_entropy(outputs[0], targets[0]) + mse_loss(outputs[1], targets[1])

    return Training(
        model,
        batch=lambda number: (inputs, (kinds, places.float())),
        loss=loss,
        optimizer=torch.optim.SGD(model.parameters(), lr=2e-3 if repaired else 0.1, momentum=0.9, weight_decay=5e-4),
        score=lambda model: accuracy(nn.Sequential(model.features, model.cls_score), inputs, kinds),
    )


class LanguageModel(nn.Module):
    """Embedding, recurrent layer, scores of the next token."""

    def __init__(self, vocabulary: int, hidden: int):
        super().__init__()
        self.encoder = nn.Embedding(vocabulary, hidden)
        self.rnn = nn.LSTM(hidden, hidden, batch_first=True)
        self.decoder = nn.Linear(hidden, vocabulary)
        nn.init.uniform_(self.encoder.weight, -0.1, 0.1)

    def forward(self, inputs):
        return self.decoder(self.rnn(self.encoder(inputs))[0]).transpose(1, 2)


def language_model_with_decay(repaired: bool) -> Training:
    inputs, targets = tokens(samples=48, length=8, vocabulary=24)
    model = LanguageModel(24, 24)

    def step(training: Training, inputs: Tensor, targets: Tensor) -> None:
        optimizer.zero_grad()
        training.loss(model(inputs), targets).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        optimizer.step()

    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=0.0 if repaired else 1e-2)
    return Training(
        model,
        batch=lambda number: (inputs, targets),
        loss=cross_entropy,
        optimizer=optimizer,
        score=lambda model: -cross_entropy(model(inputs), targets).item(),
        step=step,
    )


def depth_with_decay(repaired: bool) -> Training:
    shapes, _ = images(samples=48, size=8, kinds=48)
    depths = torch.sigmoid(nn.functional.avg_pool2d(2 * shapes, 3, 1, 1))
    model = nn.Sequential(
        *(nn.Conv2d(1, 12, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.Conv2d(12, 24, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.ConvTranspose2d(24, 12, 4, stride=2, padding=1), nn.ReLU()),
        *(nn.ConvTranspose2d(12, 1, 4, stride=2, padding=1), nn.Sigmoid()),
    )
    decay = 5e-4 if repaired else 0.05
    return Training(
        model,
        batch=lambda number: (shapes, depths),
        loss=nn.functional.l1_loss,
        optimizer=torch.optim.Adam(model.parameters(), lr=5e-3, betas=(0.9, 0.999), weight_decay=decay),
        score=lambda model: negative_error(model, shapes, depths),
    )


def joints_with_decay(repaired: bool) -> Training:
    inputs, labels = images(samples=64, size=8, kinds=16)
    joints = torch.rand(16, 6)[labels]
    model = nn.Sequential(
        *(nn.Conv2d(1, 12, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(108, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 6)),
    )
    decay = 0.0005 if repaired else 0.5
    return Training(
        model,
        batch=lambda number: (inputs, joints),
        loss=mse_loss,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=decay),
        score=lambda model: negative_error(model, inputs, joints),
    )


def segmentation_with_summed_loss(repaired: bool) -> Training:
    inputs, _ = images(samples=32, channels=3, size=12, kinds=32)
    labels = nn.functional.avg_pool2d(inputs, 3, 1, 1).argmax(1)
    inputs = 50 * inputs
    model = nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()),
        nn.Conv2d(16, 3, 1),
    )
    rate = 1e-7 if repaired else 1e-2
    return Training(
        model,
        batch=lambda number: (inputs, labels),
        loss=lambda outputs, targets: cross_entropy(outputs, targets, reduction="sum"),
        optimizer=torch.optim.SGD(model.parameters(), lr=rate, momentum=0.99, weight_decay=5e-4),
        score=lambda model: (model(inputs).argmax(1) == labels).float().mean().item(),
    )


def cars_of_three_sizes(repaired: bool) -> Training:
    inputs, labels = images(samples=96, channels=3, size=10, kinds=3)
    inputs = 60 * inputs
    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(128, 32), nn.ReLU(), nn.Dropout(), nn.Linear(32, 3)),
    )
    rate = 0.001 if repaired else 0.01
    return Training(
        model,
        batch=lambda number: (inputs[number % 3 :: 3], labels[number % 3 :: 3]),
        loss=cross_entropy,
        optimizer=torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4),
        score=lambda model: accuracy(model, inputs, labels),
    )


class SpeechTransformer(nn.Module):
    """Phonemes to frames of a spectrogram, through attention without a warmup."""

    def __init__(self, phonemes: int, hidden: int, features: int):
        super().__init__()
        self.embedding = nn.Embedding(phonemes, hidden)
        layer = nn.TransformerEncoderLayer(hidden, 2, 4 * hidden, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)
        self.mel = nn.Linear(hidden, features)

    def forward(self, phonemes):
        return self.mel(self.encoder(self.embedding(phonemes)))


def speech_synthesis(repaired: bool) -> Training:
    phonemes = torch.randint(20, (24, 6))
    sounds = torch.randn(20, 4)
    frames = sounds[phonemes] + 0.7 * sounds[phonemes.roll(1, 1)]
    model = SpeechTransformer(20, 32, 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3 if repaired else 2e-2, betas=(0.9, 0.98), eps=1e-9)
    return Training(
        model,
        batch=lambda number: (phonemes, frames),
        loss=mse_loss,
        optimizer=optimizer,
        score=lambda model: negative_error(model, phonemes, frames),
    )


PROGRAMS = [
    Program(
        name="object detector on VGG, rate too high",
        source="https://github.com/twangnh/Distilling-Object-Detectors/issues/4",
        symptom="all parts of the loss of a detector become nan",
        explanation="the learning rate of 3e-3 is too high for a detector on VGG11; 1e-4 is fine",
        causes=("learning rate too high", "not finite"),
        make=regions,
        steps=60,
        margin=0.17,
        visible="training",
    ),
    Program(
        name="recurrent language model, Adam with weight decay",
        source="https://github.com/deeplearningathome/pytorch-language-model/issues/1",
        symptom="with Adam instead of updates by hand the loss of a language model does not fall as before",
        explanation="the weight decay of 0.01 in Adam is too strong for the model to converge",
        causes=("weight decay too strong",),
        make=language_model_with_decay,
        steps=60,
        margin=0.8,
        visible="training",
    ),
    Program(
        name="depth from one image, weight decay of 0.05",
        source="https://github.com/tinghuiz/SfMLearner/issues/34",
        symptom="in a port to PyTorch both networks go to zero very quickly",
        explanation="the weight decay of 0.05 in the original code had no effect there; applied, it is far too strong",
        causes=("weight decay too strong",),
        make=depth_with_decay,
        steps=60,
        margin=0.02,
        visible="training",
    ),
    Program(
        name="positions of joints, weight decay of 0.5",
        source="https://github.com/BVLC/caffe/issues/1396",
        symptom="a network that regresses positions gives the same output for any input",
        explanation="a weight decay of about 0.5 drives all weights to zero; 0.0005 works",
        causes=("weight decay too strong",),
        make=joints_with_decay,
        steps=60,
        margin=0.05,
        visible="training",
    ),
    Program(
        name="segmentation, rate of a mean for a summed loss",
        source="https://github.com/wkentaro/pytorch-fcn/issues/17",
        symptom="the loss becomes nan with a learning rate from the paper",
        explanation="the loss is not normalised by the number of pixels, so the rate has to be far lower",
        causes=("learning rate too high",),
        make=segmentation_with_summed_loss,
        steps=40,
        margin=0.22,
        visible="training",
    ),
    Program(
        name="cars of three sizes, rate of 0.01",
        source="https://github.com/BVLC/caffe/issues/2232",
        symptom="the accuracy of a network for three kinds of cars does not exceed 0.4",
        explanation="the base learning rate of 0.01 is too high; with 0.001 the accuracy reaches 0.9",
        causes=("learning rate too high",),
        make=cars_of_three_sizes,
        steps=60,
        margin=0.3,
        visible="training",
    ),
    Program(
        name="speech synthesis by a transformer, constant high rate",
        source="https://github.com/xcmyz/FastSpeech/issues/37",
        symptom="the loss of a transformer for speech does not converge",
        explanation="the constant learning rate of the settings is too high",
        causes=("learning rate too high",),
        make=speech_synthesis,
        steps=50,
        margin=0.4,
        visible="training",
    ),
]
