"""The training of a network as a Python script, which gives the numbers that the page showed."""

import inspect
from typing import Any

from sigmoidcore.lab.datasets import PLANE, TEST, TRAIN, DataSet, data_set
from sigmoidcore.lab.frame import PROBED
from sigmoidcore.lab.networks import BUILDERS, MOMENTUM, PROBES, Residual, resnet
from sigmoidcore.lab.setting import OWN, WITH_SLOPES, Contender, Setting, query

STEPS = 1_000  # steps of the script of a training that has not begun
DATA = {
    "digits": "x, y, test_x, test_y = digits()",
    "article": "x = test_x = torch.tensor(POINTS_X)[:, None] / 3\ny = test_y = torch.tensor(POINTS_Y)[:, None]",
    OWN: "data = own_data(Path({path!r}), {target!r})\n"
    "x, y, test_x, test_y = data.train_x, data.train_y, data.test_x, data.test_y",
} | dict.fromkeys(
    PLANE,
    "points, classes = {data}({count}, np.random.default_rng({seed}))\n"
    "points, classes = torch.tensor(points, dtype=torch.float32), torch.tensor(classes)\n"
    "x, y, test_x, test_y = points[:{train}], classes[:{train}], points[{train}:], classes[{train}:]",
)
SCRIPT = """\
# {depth} layers of {width} neurons on the data "{data}"; in the lab: {address}
{imports}

{sources}{samples}
loss_fn = nn.functional.{loss}

torch.manual_seed({seed})
model = {builder}(x.shape[1], {width}, {depth}, {outputs})
{training}

order = torch.Generator().manual_seed({seed})
for step in range({steps}):
    rows = torch.randint(0, len(x), (min({batch}, len(x)),), generator=order)
    optimizer.zero_grad()
    loss_fn(model(x[rows]), y[rows]).backward()
    optimizer.step()

with torch.no_grad():
    score = {score}
    loss = float(loss_fn(model.train()(x[:{probed}]), y[:{probed}]))
print(f"loss {{loss:.6g}}, {metric} {{score:.4g}}")
print(sc.diagnose(model, x[:{probed}], y[:{probed}], loss_fn))
"""


def python_code(setting: Setting, contender: Contender, steps: int, own: DataSet | None = None) -> str:
    """The script of a network; it needs this package only. Slopes that were set by hand are not in it."""
    kind, data = contender.kind, own if own is not None and setting.data == OWN else data_set(setting.data)
    sources: list[Any] = [PLANE[setting.data]] if setting.data in PLANE else []
    sources += {"sigmoid-core": [], "resnet": [Residual, resnet]}.get(kind, [BUILDERS[kind]])
    metric, score = "R2", "r2_score(test_y.numpy(), model.eval()(test_x).numpy())"
    if data.classes:
        metric, score = "accuracy", "100 * float((model.eval()(test_x).argmax(1) == test_y).float().mean())"
    path, target = data.source or ("", "")
    options = query(setting)
    address = f"?{options}" if options else "the set-up that it opens with"
    values = {**vars(setting), "count": TRAIN + TEST, "train": TRAIN, "path": path, "target": target}
    values |= {
        "address": address, "imports": _imports(setting, kind, metric),
        "sources": "\n" * bool(sources) + "".join(inspect.getsource(part) + "\n\n" for part in sources),
        "samples": DATA[setting.data].format(**values), "loss": "cross_entropy" if data.classes else "mse_loss",
        "builder": "sc.MLP" if kind == "sigmoid-core" else kind, "outputs": data.outputs,
        "training": "\n".join(_training(contender)), "steps": steps or STEPS, "score": score, "metric": metric,
        "probed": PROBED,
    }  # fmt: skip
    return SCRIPT.format(**values)


def _imports(setting: Setting, kind: str, metric: str) -> str:
    """The imports, in the order of the style guide."""
    own = {"digits": "lab.datasets import digits", "article": "article import POINTS_X, POINTS_Y"}
    own[OWN] = "lab.datasets import own_data"
    standard = {OWN: "from pathlib import Path\n\n"} | dict.fromkeys(PLANE, "import math\n\nimport numpy as np\n")
    found = [standard.get(setting.data, "") + "import torch"]
    found += ["from sklearn.metrics import r2_score"] if metric == "R2" else []
    found += ["from torch import Tensor, nn" if kind == "resnet" else "from torch import nn", ""]
    found += ["import sigmoidcore as sc"]
    return "\n".join([*found, *(f"from sigmoidcore.{own[name]}" for name in (setting.data,) if name in own)])


def _training(contender: Contender) -> list[str]:
    """Lines that prepare the network, and make the optimizer and the Equalizer."""
    sgd, rate, lines = contender.optimizer == "sgd", contender.rate, []
    groups, lr = "model.parameters()", f", lr={rate:g}"
    if contender.kind == "sigmoid-core":
        saturation = f"saturation={contender.saturation:g}"
        lines.append(f"sc.prepare(model, x[:{PROBES}], targets=y[:{PROBES}], loss_fn=loss_fn, {saturation})")
        groups, lr = f"sc.depth_scaled_lr(model, {rate:g})", ""
        if sgd:
            groups = f'sc.depth_scaled_lr(model, {rate:g} * {1 - MOMENTUM:.1f}, optimizer="sgd")'
    elif contender.kind in WITH_SLOPES:
        lines.append("sc.convert(model)  # the same function, with slopes that can be changed")
    momentum = f", momentum={MOMENTUM}" if sgd else ""
    lines.append(f"\noptimizer = torch.optim.{'SGD' if sgd else 'Adam'}({groups}{lr}{momentum})")
    if contender.equalizer and contender.kind in WITH_SLOPES:
        lines.append("equalizer = sc.Equalizer(model, optimizer)")
    return lines
