"""Healthy networks by group: what a tool that diagnoses networks should not accuse."""

from zoo import by_hand, practices, timm_models, torchvision_models, transformers_models
from zoo.network import Network

GROUPS: dict[str, tuple[Network, ...]] = {
    "timm": tuple(timm_models.networks()),
    "torchvision": tuple(torchvision_models.networks()),
    "transformers": tuple(transformers_models.networks()),
    "by hand": (*by_hand.networks(), *practices.networks()),
}
