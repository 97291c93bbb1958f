"""The rows of every table, and the sentences with figures, that the documentation takes from benchmarks/results."""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from math import nan
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any

RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results"

Row = dict[str, Any]
Cells = Iterator[tuple[str, ...]]
TABLES: dict[str, Callable[[], Cells]] = {}
SENTENCES: dict[str, Callable[[], Iterator[str]]] = {}


def table(function: Callable[[], Cells]) -> Callable[[], Cells]:
    """Register the function that makes the rows of a table, under its name."""
    TABLES[function.__name__] = function
    return function


def sentences(page: str) -> Callable[[Callable[[], Iterator[str]]], Callable[[], Iterator[str]]]:
    """Register the function that makes sentences which the page must contain."""

    def register(function: Callable[[], Iterator[str]]) -> Callable[[], Iterator[str]]:
        assert page not in SENTENCES, f"one function makes all sentences of {page}"
        SENTENCES[page] = function
        return function

    return register


@cache
def rows(name: str) -> list[Row]:
    """The rows of a result file."""
    loaded: list[Row] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))["rows"]
    return loaded


def select(name: str, **values: object) -> list[Row]:
    """The rows of a result file that have these values."""
    return [row for row in rows(name) if all(row[key] == value for key, value in values.items())]


def one(name: str, **values: object) -> Row:
    """The only row that has these values."""
    (row,) = select(name, **values)
    return row


def percent(value: float) -> str:
    return f"{value + 1e-9:.1f} %"


def short(value: float) -> str:
    """Two digits; powers of ten as in 2e12."""
    return re.sub(r"(\.0)?e\+?(-?)0*", r"e\2", f"{value:.2g}")


def of_spread(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:,.0f}" if value < 1e4 else short(value)


def bold(text: str, condition: bool) -> str:
    return f"**{text}**" if condition else text


# --- depth, learning rate, weights and inputs ---


@table
def depth() -> Cells:
    goals = {10: ("1.05", "97.0 %"), 100: ("1.1", "97.0 %"), 1000: ("1.3", "97.0 %")}
    for layers, (spread, accuracy) in goals.items():
        core, plain = (one("depth", method=method, depth=layers) for method in ("core", "plain"))
        yield (
            f"{layers:,}",
            f"{core['spread']:.3f}",
            spread,
            percent(core["accuracy"]),
            accuracy,
            percent(plain["accuracy"]),
        )
    deepest = one("depth", depth=10_000)
    yield "10,000", f"{deepest['spread']:.3f}", "2", percent(deepest["accuracy"]), "95 %", "-"


@table
def depth_in_short() -> Cells:
    for layers, spread, _, accuracy, _, plain in depth():
        yield layers, f"{float(spread):.2f}", accuracy, plain


@table
def ablation() -> Cells:
    """Networks without one part, then parts added to plain sigmoids; each depth with the seeds that its rows share."""
    chains = {(row["depth"], row["network"], row["seed"]): row for row in select("ablation", case="chain")}
    networks = list(dict.fromkeys(network for _, network, _ in chains))
    smaller_rate, plain = networks.pop(), networks.index("plain sigmoids")
    for network in [*networks[:plain], smaller_rate, *networks[plain:]]:
        cells = []
        for layers in (30, 100, 1000):
            seeds = {seed for depth, name, seed in chains if (depth, name) == (layers, network)}
            seeds &= {seed for depth, name, seed in chains if (depth, name) == (layers, "whole")}
            found = [chains[layers, network, seed] for seed in sorted(seeds)]
            best, last = (f"{median([row[key] for row in found] or [nan]):.1f}" for key in ("best", "last"))
            spread = of_spread(max(float(row["spread"]) for row in found)) if found else "-"
            cells += [spread, f"{best}, {last}" if found else "-"]
        deepest = chains.get((10_000, network, 0))
        yield network, *cells, f"{of_spread(deepest['spread'])}, {deepest['passes']}" if deepest else "-"


@table
def ablation_faults() -> Cells:
    """The accuracy of the last epoch, and the spread before training, with all parts and without one."""
    for case, network in dict.fromkeys((row["case"], row["network"]) for row in rows("ablation")):
        if case == "chain" or network == "whole":
            continue
        both = [select("ablation", case=case, network=name) for name in ("whole", network)]
        spreads = (of_spread(max(float(row["spread"]) for row in found)) for found in both)
        accuracies = (percent(median(row["last"] for row in found)) for found in both)
        yield case, network.removeprefix("without "), *spreads, *accuracies


@table
def peers() -> Cells:
    """Methods without skips first; in bold the best of a column among these, and all methods that are better."""
    cases = (("digits", 10), ("digits", 100), ("fashion-mnist", 100), ("digits", 1000))
    by_name = {(row["method"], row["data"], row["depth"]): row for row in rows("peers")}
    plain = [max(row["accuracy"] for row in select("peers", data=d, depth=n, skips=False)) for d, n in cases]
    for skips in (False, True):
        for name in dict.fromkeys(row["method"] for row in rows("peers") if row["skips"] == skips):
            found = [by_name.get((name, *case)) for case in cases]
            marked = (
                "-" if row is None else bold(f"{row['accuracy']:.1f}", row["accuracy"] >= best)
                for row, best in zip(found, plain, strict=True)
            )  # fmt: skip
            deep = found[1] or {}
            learns = deep.get("basin") is not None and deep["accuracy"] > 50
            basin = f"{deep['basin']:,.0f}" if learns else "-"
            knob = "-" if deep.get("knob") is None else f"{deep['knob']:g}"
            yield (
                name,
                *marked,
                f"{deep['rate']:g}",
                knob,
                str(deep["settings"]),
                f"{deep['seconds_in_all']:,.0f}",
                basin,
            )


@table
def rescues() -> Cells:
    for row in rows("rescues"):
        rescued = (bold(f"{row[name]:.0f}", not row[f"{name} rescues"]) for name in ("remedy", "mended"))
        yield row["network"], f"{row['broken']:.0f}", f"{row['repaired']:.0f}", *rescued


@table
def learning_rate() -> Cells:
    names = {"core": "Sigmoid Core", "no equalizer": "without the Equalizer", "plain": "plain sigmoid"}
    for method, name in names.items():
        row = one("learning_rate", data="digits", method=method, width=64, depth=100)
        yield name, *(f"{row[multiple]:.1f}" for multiple in ("0.1", "0.33", "1", "3.3"))


@table
def sgd() -> Cells:
    for row in select("sgd", rule="depth_scaled_lr"):
        momentum = f", momentum {row['momentum']}" if row["momentum"] else ""
        width = f", width {row['width']}" if row["width"] != 64 else ""
        name = f"{row['depth']} layers{momentum}{width}"
        yield name, *(f"{row[multiple]:.1f}" for multiple in ("0.1", "0.33", "1", "3.3"))


@table
def sgd_one_rate() -> Cells:
    for row in select("sgd", rule="one rate"):
        rates = ("0.0003", "0.001", "0.003", "0.01", "0.03")
        yield f"{row['depth']} layers", *(f"{row[rate]:.1f}" for rate in rates)


@table
def speed_converted() -> Cells:
    names = {
        "sequential_over_mlp": "`nn.Sequential`",
        "blocks_over_mlp": "`nn.Sequential` of blocks, each an `nn.Sequential`",
        "loop_over_mlp": "a loop over an `nn.ModuleList` with `torch.tanh`",
        "sequential_over_plain": "`nn.Sequential`, over plain sigmoids",
    }
    for key, name in names.items():
        yield name, *(f"{row[key]:.2f}" for row in rows("speed_converted"))


@table
def hostile_inputs() -> Cells:
    for row in rows("hostile_inputs"):
        yield row["case"].replace("as they are", "unchanged"), percent(row["accuracy"])


@table
def untouched_weights() -> Cells:
    for layers in (30, 100):
        best = max(select("untouched_weights", depth=layers), key=lambda row: row["accuracy"])
        setting = {"depth": layers, "saturation": best["saturation"], "lr": best["lr"]}
        accuracies = (
            percent(one("untouched_weights", rates=rates, **setting)["accuracy"])
            for rates in ("equal", "rule", "faster last layer")
        )
        yield str(layers), f"saturation {best['saturation']:g}, rate {best['lr']:g}", *accuracies


# --- recurrent layers and convolutions ---


@table
def recurrent() -> Cells:
    names = {"core": "RNN of cores", "gru": "nn.GRU", "lstm": "nn.LSTM", "rnn tanh": "nn.RNN, tanh"}
    best = max(row["accuracy"] for row in rows("recurrent"))
    for kind, name in names.items():
        found = select("recurrent", kind=kind)
        rates = "the rule's" if kind == "core" else " / ".join(f"{row['lr']:g}" for row in found)
        accuracies = " / ".join(f"{row['accuracy']:.1f}" for row in found) + " %"
        yield (
            name,
            rates,
            bold(accuracies, len(found) == 1 and found[0]["accuracy"] == best),
            f"{found[0]['over_gru']:.2f}",
        )


@table
def gates() -> Cells:
    kinds = {"rnn of cores": "RNN of cores"}
    for gate in ("LSTM", "GRU"):
        forms = {"": "", " chrono": ", chrono", " calibrated": ", calibrated, slopes in place"}
        kinds |= {gate.lower() + kind: gate + name for kind, name in forms.items()}
        kinds[f"{gate.lower()} folded"] = f"{gate}, calibrated, folded"
    # The best rate of a kind has a second run.
    best = {(row["task"], row["kind"]): row for row in rows("gates") + rows("gates_folded") if row["runs"] == 2}
    tasks = {"digits 64": max, "fashion 784": max, "adding 400": min}
    winners = {task: of(row["score"] for key, row in best.items() if key[0] == task) for task, of in tasks.items()}
    for kind, name in kinds.items():
        cells, spreads = [], []
        for task in tasks:
            if (row := best.get((task, kind))) is None:
                cells += ["not run", "-"]
                spreads.append("-")
                continue
            score = short(row["score"]) if task == "adding 400" else percent(row["score"])
            cells += [
                bold(score, row["score"] == winners[task]),
                "rule" if kind == "rnn of cores" else f"{row['lr']:g}",
            ]
            spreads.append(short(float(row["spread"])))
        yield name, *cells, " / ".join(spreads)


@table
def convnet() -> Cells:
    methods = {
        "sigmoid core": ("Sigmoid Core", "saturation 0.5"),
        "plain sigmoid": ("plain sigmoid", "the rule's rate"),
        "relu, he": ("ReLU, He", "rate {lr:g}"),
        "batch norm, sigmoid": ("BatchNorm, sigmoid", "rate {lr:g}"),
        "resnet": ("ResNet", "rate {lr:g}"),
        "densenet": ("DenseNet", "rate {lr:g}"),
    }
    depths = (20, 50, 100, 200)
    chosen = [one("convnet_sigmoid_core", depth=layers) for layers in depths]
    lines = [("**Sigmoid Core**", "saturation {choice:g}", chosen)]
    for method, (name, choice) in methods.items():
        lines.append((name, choice, [one("convnet", method=method, depth=layers) for layers in depths]))
    for name, choice, found in lines:
        accuracies = (percent(row["accuracy"]) for row in found)
        yield name, choice.format(**found[0]), *accuracies, f"{found[2]['seconds']:.0f} s"


# --- word vectors ---


@table
def skipgram() -> Cells:
    names = {"lee": "Lee", "larger": "GCIDE"}
    for data, method in dict.fromkeys((row["data"], row["method"]) for row in rows("skipgram")):
        found = select("skipgram", data=data, method=method)

        def middle(key: str, form: str, found: list[Row] = found) -> str:
            return f"{median(row[key] for row in found):{form}}"

        similarities = (
            f"{middle(key, '.0f')} ({middle(f'{key}_low', '.0f')} to {middle(f'{key}_high', '.0f')})"
            for key in ("wordsim353", "simlex999")
        )
        shares = (middle(key, ".1f") for key in ("saturated", "wrong"))
        speed = f"{round(median(row['words_per_processor_second'] for row in found), -3):,.0f}"
        yield names[data], method, middle("loss", ".3f"), *similarities, *shares, speed


# --- differential equations, tables of data, saturation ---

METHODS = ("tanh", "sigmoid", "laaf layer", "laaf neuron", "adaptive tanh", "adaptive sigmoid", "sigmoid core")
EQUATIONS = {"helmholtz": "Helmholtz", "poisson": "Poisson", "burgers": "Burgers", "allen_cahn": "Allen-Cahn"}


def errors(equation: str, layers: int, *files: str) -> tuple[str, ...]:
    """A row of errors, each from the first file that has it: the smallest is bold; the range of our seeds is last."""
    key = {"problem": equation, "depth": layers}
    found = [
        next(row for file in files for row in select(file, **key) if row["method"] == method) for method in METHODS
    ]
    least = min(row["error"] for row in found)
    cells = (bold(f"{row['error']:.2g}", row["error"] == least) for row in found)
    seeds = found[-1]["errors"]
    return EQUATIONS[equation], str(layers), *cells, f"{min(seeds):.2g} to {max(seeds):.2g}"


@table
def pinn_unclipped() -> Cells:
    later = ("pinn_unclipped_poisson", "pinn_unclipped_sigmoid_core")
    for equation in EQUATIONS:
        for layers in (4, 8, 16):
            yield errors(equation, layers, *later, "pinn_unclipped")


@table
def pinn() -> Cells:
    for equation in ("burgers", "allen_cahn"):
        for layers in (8, 16):
            yield errors(equation, layers, "pinn")


@table
def tabular() -> Cells:
    for data in dict.fromkeys(row["data"] for row in rows("tabular")):

        def score(method: str, layers: int, data: str = data) -> float:
            return float(one("tabular", data=data, method=method, depth=layers)["score"])

        ours, *others = (
            [score(method, layers) for layers in (3, 10, 30)]
            for method in ("sigmoid core", "mlp relu", "mlp tanh", "mlp logistic")
        )
        chosen = [score(f"mlp {activation}, chosen alpha", 3) for activation in ("relu", "tanh")]
        best = [max(scores) for scores in zip(*others, strict=True)]
        best[0] = max(best[0], *chosen)
        yield (
            data,
            *(bold(f"{mine:.1f}", mine >= theirs) for mine, theirs in zip(ours, best, strict=True)),
            *(", ".join(f"{value:.1f}" for value in scores) for scores in others[:2]),
            f"{others[2][0]:.1f}",
            ", ".join(f"{value:.1f}" for value in chosen),
            f"{score('boosted trees', 0):.1f}",
            f"{score('linear', 0):.1f}",
        )


@table
def saturation() -> Cells:
    names = {
        "table": "tables",
        "image": "images",
        "regression": "regression",
        "function": "functions of few dimensions",
    }
    levels = ("0.25", "0.5", "1", "2", "3", "4")
    for kind in ("table", "image", "regression", "function", "all"):
        regrets = []
        for row in rows("saturation") if kind == "all" else select("saturation", kind=kind):
            found = [row[level] + 0.5 for level in levels]
            regrets.append([error / min(found) for error in found])
        means = [geometric_mean(of_level) for of_level in zip(*regrets, strict=True)]
        yield names.get(kind, kind), *(bold(f"{mean:.2f}", mean == min(means)) for mean in means)


# --- the Equalizer ---


@table
def equalizer() -> Cells:
    tasks = ("moons", "quadrants", "no sense", "wave", "friedman 1")
    for row in select("equalizer", task="moons"):
        setting = {key: row[key] for key in ("depth", "batch", "lr")}
        yield (
            f"{row['depth']}, {row['batch']}, {row['lr']:g}",
            *(f"{one('equalizer', task=task, **setting)['ratio']:.2f}" for task in tasks),
        )


@table
def overhead() -> Cells:
    for row in rows("overhead"):
        yield (
            f"{row['depth']:,}",
            f"{row['equalizer_over_without']:.3f}",
            f"{row['lowest']:.3f} to {row['highest']:.3f}",
            f"{row['looks']:.0f}",
            bold(f"{row['prepare_in_steps']:.1f}", row["prepare_in_steps"] > 10),
        )


# --- diagnosis ---


@table
def diagnosis_cases() -> Cells:
    names = {
        "sigmoid-core": "Sigmoid Core",
        "torch-audit": "torch-audit",
        "torchmortem": "torchmortem",
        "sagemaker": "SageMaker Debugger's rules",
        "sagemaker-without-initialization": "the same without `PoorWeightInitialization`",
    }
    for tool, name in names.items():
        found = select("diagnosis_cases_sigmoid_core" if tool == "sigmoid-core" else "diagnosis_cases", tool=tool)
        broken = [row for row in found if row["rule"] is not None]
        counts = [sum(row[key] for row in broken) for key in ("called_broken", "right_rule", "right_layer")]
        alarms = sum(row["called_broken"] for row in found if row["rule"] is None)
        crashes = sum(row["error"] is not None for row in found)
        of_all = (f" of {len(broken)}", f" of {len(found) - len(broken)}") if tool == "sigmoid-core" else ("", "")
        yield name, f"{counts[0]}{of_all[0]}", str(counts[1]), str(counts[2]), f"{alarms}{of_all[1]}", str(crashes)


@table
def diagnosis_failures() -> Cells:
    return outcomes_of("diagnosis_failures")


@table
def diagnosis_failures_held_out() -> Cells:
    return outcomes_of("diagnosis_failures_held_out")


@table
def held_out_missed() -> Cells:
    """The programs of the held-out half whose cause no error and no warning names, and what was said instead."""
    for row in select("diagnosis_failures_held_out", variant="broken"):
        if row["outcome"] not in ("first", "named"):
            said = dict.fromkeys(rule for _, rule, severity in row["said"] if severity != "note")
            yield row["program"], ", ".join(row["causes"]), ", ".join(said) or "-"


def outcomes_of(name: str) -> Cells:
    broken, repaired = (select(name, variant=variant) for variant in ("broken", "repaired"))
    outcomes = {
        "first": "cause named first",
        "named": "cause named after another finding",
        "note": "cause named by a note only",
        "another": "another cause named",
        "silent": "nothing said",
    }
    for outcome, words in outcomes.items():
        yield words, f"{sum(row['outcome'] == outcome for row in broken)} of {len(broken)}"
    yield "repaired program accused", f"{sum(row['outcome'] == 'accused' for row in repaired)} of {len(repaired)}"


@table
def diagnosis_overhead() -> Cells:
    for network in dict.fromkeys(row["network"] for row in rows("diagnosis_overhead")):
        every = {(row["watcher"], row["every"]): row for row in select("diagnosis_overhead", network=network)}
        seldom, always = every["monitor", 100], every["monitor", 1]
        milliseconds = seldom["step_ms"]
        yield (
            network,
            f"{milliseconds:.2g}",
            bold(f"{seldom['over_alone']:.3f}", seldom["over_alone"] > 1.02)
            + f" ({seldom['lowest']:.2f} to {seldom['highest']:.2f})",
            bold(f"{always['over_alone']:.2f}", always["over_alone"] > 1.25),
            *(
                ", ".join(f"{every[watcher, steps]['over_alone']:.2f}" for steps in (100, 1))
                if (watcher, 1) in every
                else "not run"
                for watcher in ("wandb", "tensorboard", "torchmortem")
            ),
        )


# --- fold, data, faults ---


@table
def fold() -> Cells:
    for row in rows("fold"):
        ratios = (row[f"{way}_over_plain"] for way in ("folded", "plain", "cores"))
        yield row["network"], row["pass"], *(f"{ratio:.3f}" for ratio in ratios)


@table
def data_pipeline() -> Cells:
    for row in select("data_pipeline", way="ours"):
        first, epoch = (f"{round(row[key], -3):,}" for key in ("first", "epoch"))
        yield row["source"], first, f"{row['first_of_plain']:.2f}", epoch, f"{row['epoch_of_plain']:.2f}"


@table
def faults() -> Cells:
    notes = {
        "in_writes": "hit the middle of writing a checkpoint",
        "old_run_gone": "hit after the old run was gone",
        "saved": "stopped a training, and the reported step was saved; the others had not begun or had finished",
        "said": "ended with one line that names the damage or the full disk",
        "refused": "were refused with the remedy",
        "one_won": "let exactly one begin",
        "named": "named step, layer and remedy; no such weight was saved",
    }
    for row in rows("faults"):
        note, _, count = row["noted"].partition(" ")
        yield row["fault"], str(row["trials"]), str(row["lost"]), f"{count} {notes[note]}"


# --- speed ---


WIDE = ("1000 x 64 x 100", "100 x 256 x 256", "30 x 1024 x 512")
"""Layers, width and batch."""
SHALLOW = ("100 x 64 x 100", "10 x 64 x 100")


def both(figure: str, size: str, key: str, goal: float | None = None, form: str = ".2f") -> tuple[str, str]:
    """A figure with one and with two threads; bold where the goal is missed."""
    one_thread, two_threads = (one(f"speed_{threads}", figure=figure, size=size)[key] for threads in (1, 2))

    def cell(value: float) -> str:
        return bold(f"{value:{form}}", goal is not None and float(f"{value:{form}}") > goal)

    return cell(one_thread), cell(two_threads)


@table
def speed() -> Cells:
    for size in (*WIDE, "10000 x 64 x 100"):
        yield f"step over plain, {size}", "1.02", *both("step float32", size, "cores_over_plain", 1.02)
    for size, goal in zip(WIDE, (1.6, 1.25, 1.25), strict=True):
        ours = both("step float32", size, "with_adam_over_floor", goal)
        plain = both("step float32", size, "plain_with_adam_over_floor")
        cells = (f"{mine} (plain: {theirs})" for mine, theirs in zip(ours, plain, strict=True))
        yield f"step with fused Adam over the matrix products, {size}", f"{goal:g}", *cells
    for size in WIDE[:2]:
        watched = both("watched", size, "watched_over_not", 1.02, ".3f")
        yield f"with Equalizer and Monitor over without, 200 steps, {size}", "1.02", *watched
    yield "memory that a step keeps over plain", "1.00", *both("step float32", WIDE[0], "saved_over_plain", 1.0)
    for depth in ("100", "1000", "10000"):
        kept = both("checkpoints", depth, "kept_mib")
        yield f"MiB kept with checkpoints at {depth} layers", "square root of the depth", *kept
    for depth in ("100", "1000", "10000"):
        ratios = both("checkpoints", depth, "in_parts_over_whole", 1.4)
        yield f"step with checkpoints over without, {depth} layers", "1.4", *ratios
    for key, of in (("exponent", "10 to 10000"), ("exponent_deep", "1000 to 10000")):
        yield f"exponent of the step's time in the depth, {of} layers", "1.02", *both("depth", "10 to 10000", key, 1.02)
    for key, layer, goal in (("over_tanh", "nn.RNN", 1.02), ("over_gru", "nn.GRU", 0.6)):
        yield f"RNN of cores over `{layer}`, 784 steps", f"{goal:g}", *both("recurrent", "784", key, goal)
    for size in WIDE:
        folded = both("step float32", size, "folded_to_sigmoids_over_plain", 1.0)
        yield f"inference over plain sigmoids, folded to sigmoids, {size}", "1.00", *folded
    for size in WIDE:
        folded = both("step float32", size, "folded_over_plain", 1.0)
        yield f"inference over plain sigmoids, folded to tanhs (the default), {size}", "1.00", *folded
    for size in WIDE:
        yield (
            f"inference over plain sigmoids, cores, {size}",
            "-",
            *both("step float32", size, "cores_inference_over_plain"),
        )
    for size in WIDE[:2]:
        for verb in ("prepare", "calibrate"):
            yield f"`{verb}`, in training steps, {size}", "5", *both("prepare", size, f"{verb}_in_steps", 5, ".1f")
    for size in SHALLOW:
        yield f"compiled over compiled plain, {size}", "1.00", *both("compile", size, "compiled_over_plain", 1.0)
    for key, network in (("compile_s", "cores"), ("compile_plain_s", "plain")):
        yield f"seconds to compile {network}, {SHALLOW[0]}", "-", *both("compile", SHALLOW[0], key, form=".0f")
    yield "`import sigmoidcore` beyond torch, ms", "50", *both("import", "-", "import_ms", 50, ".0f")
    for size in SHALLOW:
        yield (
            f"the training loop over a bare one, {size}",
            "1.03",
            *both("loop", size, "trainer_over_bare", 1.03, ".3f"),
        )
    for size in SHALLOW:
        view = both("loop", size, "shown_over_not", 1.01, ".3f")
        yield f"the live view over none, {size}", "1.01", *view


# --- sentences ---


def between(values: Iterable[float], link: str, form: str = ".1f") -> str:
    """The range of some figures."""
    return f"{min(values := list(values)):{form}} {link} {max(values):{form}}"


def of_rates(link: str) -> str:
    """Accuracies at 0.1 to 3.3 times the rule's rate."""
    row = one("learning_rate", data="digits", method="core", width=64, depth=100)
    return between((row[multiple] for multiple in ("0.1", "0.33", "1", "3.3")), link)


def of_convolutions(link: str) -> tuple[str, str]:
    """Accuracies of ResNet at its median depth, and of Sigmoid Core at all depths."""
    resnet = median(row["accuracy"] for row in select("convnet", method="resnet"))
    return f"{resnet:.0f}", between((row["accuracy"] for row in rows("convnet_sigmoid_core")), link)


def of_peers() -> tuple[str, str, int]:
    """Accuracies of Sigmoid Core and of tanh with orthogonal weights at 100 layers, and the settings of the latter."""
    ours, tanh = (one("peers", data="digits", depth=100, method=name) for name in ("sigmoid-core", "tanh-orthogonal"))
    return f"{ours['accuracy']:.1f}", f"{tanh['accuracy']:.1f}", tanh["settings"]


@sentences("README.md")
def readme() -> Iterator[str]:
    ours, tanh, settings = of_peers()
    yield f"{ours} % at 100 layers of digits, where tanh with orthogonal weights"
    yield f"{tanh} % with the best of {settings} settings"
    yield f"At 100 layers, learning rates from 0.1 to 3.3 times the rule's give {of_rates('to')} %."
    resnet, ours = of_convolutions("to")
    yield f"residual networks are better: {resnet} % against {ours} % for plain convolutions with Sigmoid Core"


@sentences("README.zh-CN.md")
def readme_in_chinese() -> Iterator[str]:
    ours, tanh, settings = of_peers()
    yield f"digits 上 100 层的准确率是 {ours} %；tanh 网络配正交权重，试过 {settings} 种设置"
    yield f"{tanh} %。"
    yield f"100 层时，学习率取规则值的 0.1 到 3.3 倍，准确率为 {of_rates('到')} %。"
    resnet, ours = of_convolutions("到")
    yield f"在图像上残差网络更好：小规模 Fashion-MNIST 上为 {resnet} %，用 Sigmoid Core 的普通卷积网络为 {ours} %。"


@sentences("docs/benchmarks.md")
def benchmarks() -> Iterator[str]:
    shallow, deep = (one("depth", method="core", depth=layers)["accuracy"] for layers in (10, 1000))
    deepest = one("depth", depth=10_000)["accuracy"]
    yield f"{min(shallow, deep):.0f} % on digits from 10 to 1,000 layers, {deepest:.1f} % at 10,000"
    yield f"{of_rates('to')} % from 0.1 to 3.3 times the rule's rate"
    broken = select("diagnosis_failures", variant="broken")
    named = sum(row["outcome"] in ("first", "named") for row in broken)
    yield f"{named} of {len(broken)} real failures"
    held_out = [row["outcome"] for row in select("diagnosis_failures_held_out", variant="broken")]
    count, named, other = len(held_out), held_out.count("first") + held_out.count("named"), held_out.count("another")
    yield f"{named} of {count} are named ({100 * named / count:.0f} %)"
    yield f"{other} get another cause ({100 * other / count:.0f} %)"
    ratios = [row["ratio"] for row in rows("equalizer") if "ratio" in row]
    yield f"The mean is {geometric_mean(ratios):.2f}."
    for fault in ("8", "0.05"):
        row = one("equalizer", task=f"digits, two slopes x {fault}")
        yield f"times {fault}: {row['watched']:.1f} % with it, {row['alone']:.1f} % without"
