"""The decision guide: what was best for a task, and where Sigmoid Core came beside it."""

from statistics import mean

from result_tables.figures import one, percent, rows, select, short
from result_tables.physics import physics_methods
from result_tables.registry import Cells, table

NAMES = {
    "rezero": "ReZero",
    "resnet": "ResNet",
    "densenet": "DenseNet",
    "resnet-zero": "residual branches that start at 0",
    "dks": "Deep Kernel Shaping",
    "tanh-orthogonal": "tanh with orthogonal weights",
    "batchnorm": "BatchNorm",
    "layernorm": "LayerNorm",
    "relu-he": "ReLU",
}


def accuracy(method: str, depth: int) -> str:
    """A method of benchmarks/compare_peers.py on digits, with its name."""
    return f"{NAMES[method]} {percent(one('peers', method=method, data='digits', depth=depth)['accuracy'])}"


def ours(depth: int) -> str:
    return percent(one("peers", method="sigmoid-core", data="digits", depth=depth)["accuracy"])


def first(depth: int, **values: object) -> str:
    """The best method beside ours on digits."""
    found = [row for row in select("peers", data="digits", depth=depth, **values) if row["method"] in NAMES]
    return accuracy(max(found, key=lambda row: row["accuracy"])["method"], depth)


@table
def decisions() -> Cells:
    """Task, what to take, the best of the others, Sigmoid Core, section."""
    yield from images_and_tables()
    yield from depths()
    yield from sequences()
    yield from bounded()


def images_and_tables() -> Cells:
    best = {n: one("convnet", method="resnet", depth=n)["accuracy"] for n in (20, 100)}
    cores = {n: one("convnet_sigmoid_core", depth=n)["accuracy"] for n in best}
    yield (
        "Images",
        "**ResNet**",
        f"ResNet {percent(best[20])} with 20 layers, {percent(best[100])} with 100",
        f"{percent(cores[20])}, {percent(cores[100])}",
        "[convolutions](benchmarks.md#convolutions)",
    )
    sets = dict.fromkeys(row["data"] for row in rows("tabular"))
    means = {
        name: mean(one("tabular", data=data, method=name, depth=depth)["score"] for data in sets)
        for name, depth in (("mlp tanh, chosen alpha", 3), ("boosted trees", 0), ("sigmoid core", 3))
    }
    chosen, trees, core = means.values()
    yield (
        "Tables of data",
        "**Boosted trees**, or three layers of tanh",
        f"mean score of {len(sets)} tables: tanh {chosen:.1f}, trees {trees:.1f}, which are much faster",
        f"{core:.1f} with 3 layers",
        "[tables](benchmarks.md#tables)",
    )


def depths() -> Cells:
    yield (
        "Vectors, about 10 layers",
        "**What you have**: most methods are equal",
        f"{first(10)}, {accuracy('relu-he', 10)}",
        ours(10),
        "[peers](benchmarks.md#peers)",
    )
    yield (
        "Vectors, 100 layers, skip connections allowed",
        "**ReZero or ResNet**",
        f"{first(100)}, {accuracy('resnet', 100)}; {accuracy('batchnorm', 100)} without skips",
        ours(100),
        "[peers](benchmarks.md#peers)",
    )
    tried = {name: one("peers", method=name, data="digits", depth=100)["settings"] for name in ("dks", "sigmoid-core")}
    yield (
        "Vectors, 100 layers, no skips and no norms",
        "**Sigmoid Core**",
        f"{first(100, skips=False)} with the best of {tried['dks']} settings, {accuracy('tanh-orthogonal', 100)}, "
        f"{accuracy('relu-he', 100)}",
        f"{ours(100)} with {tried['sigmoid-core']} setting",
        "[peers](benchmarks.md#peers)",
    )
    yield (
        "Vectors, 1,000 layers",
        "**ReZero**; without skip connections Sigmoid Core, or Deep Kernel Shaping if you can search",
        f"{accuracy('rezero', 1000)}; {accuracy('dks', 1000)} with the best of 20 settings",
        f"{ours(1000)} with 1 setting",
        "[peers](benchmarks.md#peers)",
    )


def sequences() -> Cells:
    yield "Transformers", "**LayerNorm or RMSNorm**, with scaled branches", "-", "-", "-"
    gru = max(select("recurrent", kind="gru"), key=lambda row: row["accuracy"])
    yield (
        "Sequences of tens of steps",
        "**RNN of cores**",
        f"GRU {percent(gru['accuracy'])} in 64 steps, at the best of three rates",
        percent(one("recurrent", kind="core")["accuracy"]),
        "[recurrent layers](recurrent.md)",
    )
    score = {
        (row["task"], row["kind"]): row["score"] for row in rows("gates") + rows("gates_folded") if row["runs"] == 2
    }
    gates = {task: [score[task, kind] for kind in ("gru", "gru folded")] for task in ("fashion 784", "adding 400")}
    pixels, sums = gates["fashion 784"], gates["adding 400"]
    yield (
        "Sequences of hundreds of steps",
        "**GRU, calibrated and folded**; plain if it learns",
        f"GRU {percent(pixels[0])} in 784 steps; error {short(sums[0])} in 400 steps of the adding problem",
        f"{percent(pixels[1])}; error {short(sums[1])}",
        "[recurrent layers](recurrent.md)",
    )


def bounded() -> Cells:
    found = {row[0]: row for row in physics_methods()}
    _, cells, first, ours, *_ = found["sigmoid-core"]
    yield (
        "Differential equations",
        "**`PhysicsMLP`**",
        f"PirateNet: errors over tanh's {found['piratenet'][3]}, at {float(found['piratenet'][7]):.1f} times its time",
        f"{ours} at {float(found['sigmoid-core'][7]):.1f} times; first or within 10 % in {first} of {cells} cells",
        "[differential equations](benchmarks.md#differential-equations)",
    )
    forward = one("fold", network="mlp", **{"pass": "forward"})
    yield (
        "Bounded outputs, sigmoids in hardware",
        "**Sigmoid Core, folded**",
        "ReLU networks are not bounded",
        f"time of a folded network over the plain one: {forward['folded_over_plain']:.2f}",
        "[fold](fold.md)",
    )
    outcomes = [row["outcome"] for row in select("diagnosis_failures_held_out", variant="broken")]
    named = outcomes.count("first") + outcomes.count("named")
    yield (
        "My network does not learn",
        "**`unstuck train.py`**, with any network",
        "-",
        f"names the cause of {named} of {len(outcomes)} real failures that its rules were not written for",
        "[diagnosis](diagnosis.md)",
    )
