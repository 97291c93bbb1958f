"""A small vision transformer for images of 32 x 32 pixels, and the images that it learns."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from _residual_block import Block, Places, start

PATCH, CLASSES = 4, 10


class SmallViT(nn.Module):
    """Patches of 4 x 4 pixels and their positions, in a stream of size 1; blocks, a last norm, the mean, a head."""

    def __init__(self, width: int, blocks: int, places: Places) -> None:
        super().__init__()
        self.patch, self.position = nn.Linear(3 * PATCH**2, width), nn.Embedding((32 // PATCH) ** 2, width)
        self.blocks = nn.ModuleList(Block(width, blocks, places, causal=False) for _ in range(blocks))
        self.norm, self.head = places.norm(width), nn.Linear(width, CLASSES)
        start(self, places)

    def forward(self, images: Tensor) -> Tensor:
        patches = nn.functional.unfold(images, PATCH, stride=PATCH).transpose(1, 2)
        x = 2**-0.5 * self.patch(patches) + self.position.weight
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


class Images:
    """CIFAR-10 from an .npz file with x_train [n, 32, 32, 3] (uint8), y_train, x_test, y_test.

    Pixels have mean 0 and deviation 1 over the training images, of which every second one is mirrored at random.
    """

    task, batch_size = "images", 32

    def __init__(self, path: Path) -> None:
        with np.load(path) as file:
            x, y, x_test, y_test = (file[name] for name in ("x_train", "y_train", "x_test", "y_test"))
        pixels, of_tests = (torch.tensor(a, dtype=torch.float32).permute(0, 3, 1, 2) / 255 for a in (x, x_test))
        mean, deviation = pixels.mean(), pixels.std()
        self.name = f"{path.name}, {len(x)} and {len(x_test)} images"
        self.train = (pixels - mean) / deviation, torch.tensor(y, dtype=torch.int64)
        self.validation = (of_tests - mean) / deviation, torch.tensor(y_test, dtype=torch.int64)

    def model(self, width: int, blocks: int, places: Places) -> nn.Module:
        return SmallViT(width, blocks, places)

    def batch(self, size: int, generator: torch.Generator, *, validate: bool = False) -> tuple[Tensor, Tensor]:
        """Images [size, 3, 32, 32] and their classes, drawn at random."""
        x, y = self.validation if validate else self.train
        chosen = torch.randint(len(x), (size,), generator=generator)
        mirrored = torch.rand(size, 1, 1, 1, generator=generator) < (0 if validate else 0.5)
        images = x[chosen]
        return torch.where(mirrored, images.flip(3), images), y[chosen]
