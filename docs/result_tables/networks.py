"""Accuracy: depth, peers, ablation, rates, inputs, weights; recurrent layers, convolutions and word vectors."""

from math import nan
from statistics import median

from result_tables.figures import Row, bold, of_spread, one, percent, rows, select, short
from result_tables.registry import Cells, table


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
def peers_plain() -> Cells:
    """Sigmoid Core with one setting beside plain and scaled sigmoids at the best of five rates."""
    for depth in sorted({row["depth"] for row in rows("peers_plain")}):
        found = (select("peers_plain", depth=depth, method=m) for m in ("sigmoid", "sigmoid-scaled", "sigmoid-core"))
        yield str(depth), *(percent(row[0]["accuracy"]) if row else "-" for row in found)


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
def untouched_weights() -> Cells:
    for layers in (30, 100):
        best = max(select("untouched_weights", depth=layers), key=lambda row: row["accuracy"])
        setting = {"depth": layers, "saturation": best["saturation"], "lr": best["lr"]}
        accuracies = (
            percent(one("untouched_weights", rates=rates, **setting)["accuracy"])
            for rates in ("equal", "rule", "faster last layer")
        )
        yield str(layers), f"saturation {best['saturation']:g}, rate {best['lr']:g}", *accuracies


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


GATES = ("gates", "gates_folded", "gates_rivals", "gates_lru")


@table
def gates() -> Cells:
    kinds = {"rnn of cores": "RNN of cores"}
    for gate in ("LSTM", "GRU"):
        forms = {"": "", " chrono": ", chrono", " calibrated": ", calibrated, slopes in place"}
        kinds |= {gate.lower() + kind: gate + name for kind, name in forms.items()}
        kinds[f"{gate.lower()} folded"] = f"{gate}, calibrated, folded"
    kinds |= {
        "ur-lstm": "UR-LSTM",
        "irnn": "IRNN",
        "exprnn": "expRNN",
        "lru": "LRU, ring of long tasks",
        "lru wide": "LRU, whole disk",
    }
    # The best rate of a kind has a second run.
    best = {(row["task"], row["kind"]): row for name in GATES for row in rows(name) if row["runs"] == 2}
    tasks = {"digits 64": max, "permuted 64": max, "fashion 784": max, "adding 400": min, "copy 200": max}
    winners = {task: of(row["score"] for key, row in best.items() if key[0] == task) for task, of in tasks.items()}
    for kind, name in kinds.items():
        cells = []
        for task in tasks:
            if (row := best.get((task, kind))) is None:
                cells.append("not run")
                continue
            score = short(row["score"]) if task == "adding 400" else percent(row["score"])
            rate = "rule" if kind == "rnn of cores" else f"{row['lr']:g}"
            cells.append(f"{bold(score, row['score'] == winners[task])} ({rate})")
        spreads = [best[task, kind]["spread"] if (task, kind) in best else None for task in tasks]
        yield name, *cells, " / ".join("-" if spread is None else short(float(spread)) for spread in spreads)


@table
def convnet() -> Cells:
    methods = {
        "plain sigmoid": ("plain sigmoid", "the rule's rate"),
        "relu, he": ("ReLU, He", "rate {lr:g}"),
        "batch norm, sigmoid": ("BatchNorm, sigmoid", "rate {lr:g}"),
        "resnet": ("ResNet", "rate {lr:g}"),
        "densenet": ("DenseNet", "rate {lr:g}"),
    }
    depths = (20, 50, 100, 200)
    chosen = [one("convnet_sigmoid_core", depth=layers) for layers in depths]
    earlier = one("convnet", method="sigmoid core", depth=100)  # on the machine of the others
    chosen[2] |= {"seconds": earlier["seconds"]}
    lines = [("**Sigmoid Core**", "saturation {choice:g}", chosen)]
    for method, (name, choice) in methods.items():
        lines.append((name, choice, [one("convnet", method=method, depth=layers) for layers in depths]))
    for name, choice, found in lines:
        accuracies = (percent(row["accuracy"]) for row in found)
        yield name, choice.format(**found[0]), *accuracies, f"{found[2]['seconds']:.0f} s"


@table
def cifar() -> Cells:
    names = {
        "sigmoid-core": "**Sigmoid Core**",
        "tanh-orthogonal": "tanh, delta-orthogonal",
        "dks": "DKS",
        "batchnorm-sigmoid": "BatchNorm, sigmoid",
        "resnet": "ResNet",
        "resnet-zero": "ResNet, branches start at 0",
    }
    for method, name in names.items():
        found = [one("cifar", method=method, depth=depth) for depth in (20, 50, 100)]
        tried, seconds = str(found[0]["settings"]), f"{found[2]['seconds']:.0f} s"
        yield name, tried, *(percent(row["accuracy"]) for row in found), seconds


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
        speed = f"{round(median(row['words_per_second'] for row in found), -3):,.0f}"
        yield names[data], method, middle("loss", ".3f"), *similarities, *shares, speed


@table
def equalizer_settings() -> Cells:
    names = ("sigmoid-core", "sigmoid-core, without the Equalizer", "tanh-orthogonal", "dks", "rezero", "resnet")
    for row in select("equalizer_settings", method=names[0]):
        found = [one("equalizer_settings", setting=row["setting"], method=name)["accuracy"] for name in names]
        yield row["setting"], *(f"**{a:.1f}**" if a == max(found) else f"{a:.1f}" for a in found)


@table
def equalizer() -> Cells:
    tasks = ("moons", "quadrants", "no sense", "wave", "friedman 1")
    for row in select("equalizer", task="moons"):
        setting = {key: row[key] for key in ("depth", "batch", "lr")}
        yield (
            f"{row['depth']}, {row['batch']}, {row['lr']:g}",
            *("{ratio:.2f} ± {error:.2f}".format(**one("equalizer", task=task, **setting)) for task in tasks),
        )
