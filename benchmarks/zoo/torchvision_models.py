"""Every family of torchvision: classification, segmentation, detection, video, optical flow."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from catalogue.case import Problem
from zoo.network import KINDS, SIZE, Network, images, package

CLASSIFIERS: dict[str, dict[str, Any]] = {
    "alexnet": {},
    "convnext_tiny": {},
    "densenet121": {},
    "efficientnet_b0": {},
    "efficientnet_v2_s": {},
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True, "size": 80},
    "maxvit": {"input_size": (SIZE, SIZE), "stem_channels": 16, "partition_size": 2, "block_channels": [16, 32],
               "block_layers": [1, 1], "head_dim": 16, "stochastic_depth_prob": 0.1},
    "mnasnet0_5": {},
    "mobilenet_v2": {},
    "mobilenet_v3_small": {},
    "regnet_y_400mf": {},
    "resnet18": {},
    "resnext50_32x4d": {},
    "shufflenet_v2_x0_5": {},
    "squeezenet1_1": {},
    "swin_t": {},
    "swin_v2_t": {},
    "vgg11": {},
    "vgg11_bn": {},
    "vision_transformer": {"image_size": SIZE, "patch_size": 8, "num_layers": 4, "num_heads": 4, "hidden_dim": 64,
                           "mlp_dim": 128},
    "wide_resnet50_2": {},
}  # fmt: skip
"""Builders and their options; `size` is that of the images."""
CLASSES = {"maxvit": "MaxVit", "vision_transformer": "VisionTransformer"}
"""Classes of models whose builders make large ones only."""


def classifier(name: str, options: dict[str, Any]) -> Problem:
    size = options.get("size", SIZE)
    options = {key: value for key, value in options.items() if key != "size"} | {"num_classes": KINDS}
    builders = package("torchvision.models")
    model = getattr(builders, CLASSES[name])(**options) if name in CLASSES else builders.get_model(name, **options)
    return model, *images(size=size), nn.functional.cross_entropy


def segmenter(name: str) -> Problem:
    """The class of each pixel is the sign of the image's first channel there."""
    model = package("torchvision.models").get_model(name, weights_backbone=None, num_classes=2)
    inputs, _ = images(16)
    return model, inputs, (inputs[:, 0] > 0).long(), lambda out, y: nn.functional.cross_entropy(out["out"], y)


class Detector(nn.Module):
    """A detector, which computes its losses in training mode only."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, x: Tensor, boxes: Tensor, labels: Tensor) -> dict[str, Tensor]:
        lines = torch.arange(x.shape[-1])
        inside = (boxes[..., None, :2] <= lines[:, None]) & (lines[:, None] < boxes[..., None, 2:])  # of columns, rows
        masks = (inside[..., None, :, 0] & inside[..., :, None, 1]).byte()
        targets = [{"boxes": b, "labels": y, "masks": m} for b, y, m in zip(boxes, labels, masks, strict=True)]
        losses: dict[str, Tensor] = self.detector(list(x), targets)
        return losses


def detector(name: str, size: int) -> Problem:
    """One bright box in each image."""
    builders = package("torchvision.models.detection")
    options = {"min_size": size, "max_size": size} if "rcnn" in name or "fcos" in name or "retina" in name else {}
    model = Detector(getattr(builders, name)(weights=None, weights_backbone=None, num_classes=3, **options))
    x, boxes, labels = 0.2 * torch.rand(4, 3, size, size), torch.empty(4, 1, 4), 1 + torch.arange(4)[:, None] % 2
    for i in range(4):
        left, top = torch.randint(0, size // 2, (2,)).tolist()
        boxes[i, 0] = torch.tensor([left, top, left + size // 3, top + size // 3])
        x[i, labels[i, 0] - 1, top : top + size // 3, left : left + size // 3] += 0.7
    return model, (x, boxes, labels), None, lambda losses, _: sum(losses.values())


def video(name: str) -> Problem:
    model = package("torchvision.models.video").__dict__[name](weights=None, num_classes=KINDS)
    count, size = (4, 224) if name == "s3d" else (8, SIZE)  # it ends in a mean over a fixed window
    inputs, targets = images(count, size)
    return model, inputs[:, :, None] + 0.1 * torch.randn(count, 3, 16, size, size), targets, nn.functional.cross_entropy


def flow() -> Problem:
    """The second image is the first, moved by two pixels."""
    model = package("torchvision.models.optical_flow").raft_small(weights=None)
    first, _ = images(2, 128)
    targets = torch.full((2, 2, 128, 128), 2.0)
    return model, (first, first.roll((2, 2), (2, 3))), targets, lambda out, y: sum((o - y).abs().mean() for o in out)


def networks() -> Iterator[Network]:
    for name, options in CLASSIFIERS.items():
        yield Network(
            name, partial(classifier, name, options), rate=1e-4 if "vgg" in name or name == "alexnet" else 1e-3
        )
    for name in ("fcn_resnet50", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large"):
        yield Network(name, partial(segmenter, name))
    for name, size in (
        ("fasterrcnn_mobilenet_v3_large_320_fpn", 128),
        ("maskrcnn_resnet50_fpn", 128),
        ("retinanet_resnet50_fpn", 128),
        ("fcos_resnet50_fpn", 128),
        ("ssdlite320_mobilenet_v3_large", 320),
    ):
        yield Network(name, partial(detector, name, size), rate=1e-4, training=True)
    for name in ("r3d_18", "mc3_18", "s3d"):
        yield Network(name, partial(video, name))
    yield Network("raft_small", flow, rate=1e-4)
