"""Train a plain deep convolutional network of sigmoids on CIFAR-10 with Lightning.

    python examples/lightning_cifar10.py --data cifar10.npz --folder runs/cifar10
    python examples/lightning_cifar10.py --quick    # made-up images, half a minute

`--data` is an .npz file with x_train [n, 32, 32, 3] (uint8), y_train, x_test and y_test. If the training is killed,
start it again by the same command: it continues from its last epoch and ends with the same weights. Lightning's
checkpoint has the state of Equalizer and Monitor. Extra: `lightning`.
"""

import argparse
from pathlib import Path

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import sigmoidcore as sc
from sigmoidcore.integrations.lightning import SigmoidCoreCallback
from sigmoidcore.integrations.sinks import CSV


def cifar10(path):
    """Training images and classes, test images and classes."""
    with np.load(path) as file:
        return [file[name] for name in ("x_train", "y_train", "x_test", "y_test")]


def made_up(number=500, size=8):
    """Noisy images of ten patterns."""
    random = np.random.default_rng(0)
    patterns, classes = random.normal(128, 40, (10, size, size, 3)), random.integers(10, size=number)
    images = np.clip(random.normal(patterns[classes], 60), 0, 255).astype(np.uint8)
    return images[100:], classes[100:], images[:100], classes[:100]


class Classifier(L.LightningModule):
    def __init__(self, train, test, depth, channels, batch):
        super().__init__()
        self.train_data, self.test_data, self.batch = train, test, batch
        layers = []
        for layer in range(depth):  # the second and the third halve height and width
            read, stride = channels if layer else 3, 2 if layer in (1, 2) else 1
            layers += [nn.Conv2d(read, channels, 3, stride, 1), sc.SigmoidCore(channels, dim=1, alpha=4, centered=True)]
        pixels = (train[0][0].shape[-1] // 4) ** 2
        self.network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * pixels, 10))
        sc.prepare(self.network, train[: 2 * batch][0])

    def train_dataloader(self):
        # The order follows from the epoch: a resumed training has the batches of an uninterrupted one.
        sampler = DistributedSampler(self.train_data, self.trainer.world_size, self.trainer.global_rank)
        return DataLoader(self.train_data, self.batch, sampler=sampler)

    def val_dataloader(self):
        return DataLoader(self.test_data, self.batch)

    def training_step(self, batch, number):
        return cross_entropy(self.network(batch[0]), batch[1])

    def validation_step(self, batch, number):
        hits = (self.network(batch[0]).argmax(1) == batch[1]).float().mean()
        self.log("accuracy", hits, prog_bar=True, sync_dist=True)

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(sc.depth_scaled_lr(self.network), fused=True)
        steps = self.trainer.estimated_stepping_batches
        fall = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, 2 * (1 - step / steps)))
        return [optimizer], [{"scheduler": fall, "interval": "step"}]


def main(arguments=None):
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--data", type=Path, metavar="PATH")
    options.add_argument("--folder", type=Path, default=Path("runs/lightning-cifar10"))
    options.add_argument("--epochs", type=int, default=20)
    options.add_argument("--quick", action="store_true")
    options = options.parse_args(arguments)
    if options.data is None and not options.quick:
        raise SystemExit("give CIFAR-10 by --data PATH, or use --quick for made-up images")
    x, y, x_test, y_test = map(torch.tensor, made_up() if options.quick else cifar10(options.data))
    train, test = (TensorDataset(a.permute(0, 3, 1, 2) / 64 - 2, b.long()) for a, b in ((x, y), (x_test, y_test)))
    L.seed_everything(0)
    model = Classifier(train, test, *((6, 8, 50) if options.quick else (20, 64, 100)))
    options.folder.mkdir(parents=True, exist_ok=True)
    watching = SigmoidCoreCallback(monitor_every=10, sinks=[CSV(options.folder / "samples.csv")])
    saving = ModelCheckpoint(options.folder, "last", enable_version_counter=False, save_on_train_epoch_end=True)
    trainer = L.Trainer(max_epochs=options.epochs, gradient_clip_val=1.0, callbacks=[watching, saving], logger=False)
    last = options.folder / "last.ckpt"
    trainer.fit(model, ckpt_path=last if last.exists() else None)
    print(f"{trainer.callback_metrics['accuracy']:.1%} of the test images\n{watching.diagnosis()}")
    return model.network, watching.equalizer, watching.monitor


if __name__ == "__main__":
    main()
