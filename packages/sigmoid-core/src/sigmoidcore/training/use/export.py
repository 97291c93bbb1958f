"""A run's network for other programs: folded into plain PyTorch layers, as ONNX or safetensors.

Each file describes the preprocessing as JSON; a file beside it contains the preprocessing. The network's inputs are
those that the preprocessing makes; its outputs are scores of the classes before the softmax, or scaled numbers.
"""

import contextlib
import copy
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, fx, nn

from sigmoidcore.core import SigmoidCore
from sigmoidcore.folding import fold
from sigmoidcore.nn.networks import RNN
from sigmoidcore.training.data import InputError, Preprocessing, needed, short
from sigmoidcore.training.networks import Network, SequenceNet

CLOSE, SAMPLES = 1e-4, 16
"""Largest difference of outputs after folding, relative to the largest output, and random samples to compare them."""
OPSET = 18
_ARGUMENTS: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Linear: ("in_features", "out_features"),
    nn.Conv2d: ("in_channels", "out_channels", "kernel_size", "stride", "padding"),
    nn.Flatten: (),
    nn.Tanh: (),
}
"""The layers of a folded network that is a sequence, and the arguments that make them."""


def exported(kind: str, network: Network, preprocessing: Preprocessing) -> bytes:
    """The file of the folded network in a format of `FORMATS`."""
    target = preprocessing.target
    meaning = "times target.scale, plus target.mean of the preprocessing, they are in their own unit"
    if target.kind.is_class:
        meaning = "scores before the softmax; the classes are in the preprocessing: target.classes"
    described = {
        "preprocessing": json.dumps(preprocessing.description(), ensure_ascii=False),
        "outputs": f"[samples, {'classes' if target.kind.is_class else 'numbers'}]: {meaning}",
    }
    return FORMATS[kind][1](*folded(network, preprocessing), described)


def path_of_preprocessing(path: Path) -> Path:
    """The file with the preprocessing of an exported network."""
    return path.with_name(f"{path.stem}.preprocessing.skops")


def folded(network: Network, preprocessing: Preprocessing) -> tuple[nn.Module, Tensor]:
    """The network as plain PyTorch layers, and random inputs for it, [samples, ...]."""
    shape = preprocessing.inputs.shape
    inputs = network.arranged(torch.randn(SAMPLES, *shape, generator=torch.Generator().manual_seed(0)))
    model = copy.deepcopy(network.model).eval()
    try:
        sequences = isinstance(model, SequenceNet)  # as a graph, it does not need this package's class
        graph = fx.GraphModule(model, _Tracer().trace(model), "Sequences") if sequences else model
        plain = fold(graph).eval().requires_grad_(False)
        with torch.no_grad():
            before, after = model(inputs), plain(inputs)
    except (ValueError, RuntimeError) as error:
        raise InputError("the network cannot be folded into plain layers: {error}", error=short(error, 200)) from error
    difference = float((before - after).abs().max())
    if not difference <= CLOSE * max(1.0, float(before.abs().max())):
        raise InputError(
            "the folded network gives other outputs (by {difference:.2g}) than the run's: train "
            "with a lower --saturation or fewer layers",
            difference=difference,
        )
    return plain, inputs


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, SigmoidCore | RNN) or super().is_leaf_module(m, module_qualified_name)


def _onnx(model: nn.Module, inputs: Tensor, described: dict[str, str]) -> bytes:
    """ONNX by the dynamo exporter: one input, "inputs", and one output, "outputs", with any number of samples."""
    for module in ("onnx", "onnxscript"):
        needed(module, module, "sigmoid-core[onnx]")
    with _quiet():
        program = torch.onnx.export(
            model, (inputs,), dynamo=True, verbose=False, opset_version=OPSET, input_names=["inputs"],
            output_names=["outputs"], dynamic_shapes=({0: torch.export.Dim("batch", max=2**31 - 1)},),
        )  # fmt: skip  # PyTorch 2.6 refuses a recurrent layer without a maximum
    assert program is not None
    proto = program.model_proto
    for key, value in described.items():
        proto.metadata_props.add(key=key, value=value)
    try:
        return bytes(proto.SerializeToString())
    except ValueError as error:  # protobuf's limit is 2 GiB
        raise InputError(
            "the network is too large for one ONNX file ({error}): use safetensors", error=short(error)
        ) from error


def _safetensors(model: nn.Module, inputs: Tensor, described: dict[str, str]) -> bytes:
    """The weights, with the layers of torch.nn that they belong to as metadata."""
    from safetensors.torch import save

    network = {"network": repr(model)}
    if isinstance(model, nn.Sequential):
        layers = [(type(each).__name__, {a: getattr(each, a) for a in _ARGUMENTS[type(each)]}) for each in model]
        network = {"layers": json.dumps(layers)}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    return bytes(save(tensors, metadata={"format": "pt", **described, **network}))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporters' logs and warnings."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(disabled)


FORMATS: dict[str, tuple[str, Callable[[nn.Module, Tensor, dict[str, str]], bytes]]] = {
    "onnx": (".onnx", _onnx),
    "safetensors": (".safetensors", _safetensors),
}
"""By name: the ending of a file, and what makes its bytes."""
