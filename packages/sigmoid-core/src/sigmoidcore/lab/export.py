"""The training of a network as a Python script, which gives the numbers that the page showed."""

import inspect
from typing import Any

from sigmoidcore.lab.datasets import PLANE, TEST, TRAIN, DataSet
from sigmoidcore.lab.networks import MOMENTUM, PROBES, SOURCES
from sigmoidcore.lab.reading import PROBED
from sigmoidcore.lab.setting import OWN, WITH_SLOPES, Contender, Setting, query

STEPS = 1_000
"""Steps of the script of a training that has not begun."""
DIGITS = """
split = digits()
x, y, test_x, test_y = split.train_x, split.train_y, split.test_x, split.test_y
"""
ARTICLE = """
x = test_x = torch.tensor(POINTS_X)[:, None] / 3
y = test_y = torch.tensor(POINTS_Y)[:, None]
"""
PLANAR = """
{source}

points, classes = {name}({count}, np.random.default_rng({seed}))
points, classes = torch.tensor(points, dtype=torch.float32), torch.tensor(classes)
x, y, test_x, test_y = points[:{train}], classes[:{train}], points[{train}:], classes[{train}:]
"""
OWNED = """
data = own_data(Path({path!r}), {target!r})
x, y, test_x, test_y = data.train_x, data.train_y, data.test_x, data.test_y
"""
CORES = """
model = sc.MLP(x.shape[1], {width}, {depth}, {outputs})
sc.prepare(model, x[:{probes}], targets=y[:{probes}], loss_fn=loss_fn, saturation={saturation:g})
"""
PEER = """
problem = Problem(x[:{probes}], y[:{probes}], loss_fn, outputs={outputs}, width={width}, depth={depth})
model = find("{name}").network(problem)
"""
LOOP = """
order = torch.Generator().manual_seed({seed})
for step in range({steps}):
    rows = torch.randint(0, len(x), (min({batch}, len(x)),), generator=order)
    optimizer.zero_grad()
    loss_fn(model(x[rows]), y[rows]).backward()
    optimizer.step()

with torch.no_grad():
    score = {metric}(model.eval()(test_x), test_y)
    loss = float(loss_fn(model.train()(x[:{probed}]), y[:{probed}]))
print(f"loss {{loss:.6g}}, {metric} {{score:.4g}}")
print(sc.diagnose(model, x[:{probed}], y[:{probed}], loss_fn))
"""


def python_code(setting: Setting, which: str, steps: int, own: DataSet | None = None) -> str:
    """The script of network "a" or "b"; it needs this package only. Slopes that were set by hand are not in it.

    Example:
        >>> print(python_code(Setting(data="article"), "b", 0).splitlines()[0])
        # 30 layers of 16 neurons on the data "article"; in the lab: ?data=article
    """
    contender: Contender = getattr(setting, which)
    outputs, classes = {"article": (1, False), "digits": (10, True)}.get(setting.data, (2, True))
    if own is not None and setting.data == OWN:
        outputs, classes = own.outputs, own.kind.is_class
    values: dict[str, Any] = {
        "depth": setting.depth, "width": setting.width, "outputs": outputs, "probes": PROBES, "probed": PROBED,
        "saturation": contender.saturation, "name": SOURCES[contender.kind], "steps": steps or STEPS,
        "seed": setting.seed, "batch": setting.batch, "metric": "accuracy" if classes else "r2",
    }  # fmt: skip
    loss = "cross_entropy" if classes else "mse_loss"
    address = query(setting) or "the first set-up"
    cores = contender.kind == "sigmoid-core"
    parts = [
        f'# {setting.depth} layers of {setting.width} neurons on the data "{setting.data}"; in the lab: ?{address}',
        _imports(setting, cores, values["metric"]),
        _data(setting, own).lstrip("\n") + f"loss_fn = nn.functional.{loss}\n",
        f"torch.manual_seed({setting.seed})" + (CORES if cores else PEER).format(**values),
        "".join(_training(contender)) + LOOP.format(**values),
    ]
    return "\n".join(parts)


def _imports(setting: Setting, cores: bool, metric: str) -> str:
    """The imports, in the order of the style guide."""
    standard = {OWN: "from pathlib import Path\n\n"} | dict.fromkeys(PLANE, "import math\n\nimport numpy as np\n")
    lines = [f"{standard.get(setting.data, '')}import torch\nfrom torch import nn\n", "import sigmoidcore as sc"]
    lines += ["from sigmoidcore.article import POINTS_X, POINTS_Y"] if setting.data == "article" else []
    lines += ["from sigmoidcore.lab.datasets import own_data"] if setting.data == OWN else []
    lines += [] if cores else ["from sigmoidcore.peers import Problem, find"]
    lines += ["from sigmoidcore.training import digits"] if setting.data == "digits" else []
    return "\n".join([*lines, f"from sigmoidcore.training.data.targets import {metric}\n"])


def _data(setting: Setting, own: DataSet | None) -> str:
    if setting.data in PLANE:
        source = inspect.getsource(PLANE[setting.data]).replace("  # type: ignore[no-untyped-def]", "")
        return PLANAR.format(source=source, name=setting.data, count=TRAIN + TEST, train=TRAIN, seed=setting.seed)
    if setting.data == OWN and own is not None and own.source is not None:
        return OWNED.format(path=own.source[0], target=own.source[1])
    return DIGITS if setting.data == "digits" else ARTICLE


def _training(contender: Contender) -> list[str]:
    """Lines that make the optimizer and the Equalizer."""
    sgd, rate = contender.optimizer == "sgd", contender.rate
    lines = []
    if contender.kind == "sigmoid-core":
        groups = f'sc.depth_scaled_lr(model, {rate:g} * {1 - MOMENTUM:.1f}, optimizer="sgd")' if sgd else ""
        groups = groups or f"sc.depth_scaled_lr(model, {rate:g})"
        made = f"torch.optim.SGD({groups}, momentum={MOMENTUM})" if sgd else f"torch.optim.Adam({groups})"
    else:
        if contender.kind in WITH_SLOPES:
            lines.append("sc.convert(model)  # the same function, with slopes that can be changed\n")
        made = f"torch.optim.{'SGD' if sgd else 'Adam'}(model.parameters(), lr={rate:g}"
        made += f", momentum={MOMENTUM})" if sgd else ")"
    lines.append(f"optimizer = {made}\n")
    if contender.equalizer and contender.kind in WITH_SLOPES:
        lines.append("equalizer = sc.Equalizer(model, optimizer)\n")
    return lines
