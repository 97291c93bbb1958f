"""The sentences with figures that a page must contain."""

import math
from collections.abc import Iterator
from statistics import geometric_mean, median

from result_tables.figures import between, one, percent, rows, select
from result_tables.physics import physics_methods
from result_tables.registry import sentences


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


def _of_cifar() -> tuple[float, float, float]:
    """Accuracies of the ResNet at 20 layers, and the smallest and largest of Sigmoid Core."""
    ours = [row["accuracy"] for row in select("cifar", method="sigmoid-core")]
    return one("cifar", method="resnet", depth=20)["accuracy"], min(ours), max(ours)


def _with_and_without(setting: str) -> tuple[str, str]:
    """Accuracies of a training in which something goes wrong."""
    methods = ("sigmoid-core", "sigmoid-core, without the Equalizer")
    ours, without = (one("equalizer_settings", setting=setting, method=method)["accuracy"] for method in methods)
    return f"{ours:.1f}", f"{without:.1f}"


def _held_out() -> Iterator[tuple[int, int]]:
    """Programs held out whose cause is named, of how many: by unstuck, torchmortem, SageMaker's rules."""
    peers = (
        select("failures_peers", tool=tool, half="held out", variant="broken") for tool in ("torchmortem", "sagemaker")
    )
    for found in (select("diagnosis_failures_held_out", variant="broken"), *peers):
        outcomes = [row["outcome"] for row in found if row["outcome"] is not None]
        yield outcomes.count("first") + outcomes.count("named"), len(outcomes)


def _modern() -> tuple[int, int]:
    """Mistakes in modern trainings that others wrote, judged once: how many are named, of how many."""
    names = ("second", "third", "fourth", "fifth", "sixth")
    outcomes = [row["outcome"] for name in names for row in select(f"diagnosis_modern_{name}", variant="broken")]
    return outcomes.count("first") + outcomes.count("named"), len(outcomes)


def _proofs() -> str:
    """Of mistakes in modern trainings: how many are named with trials, how many of these proved, how many shown."""
    broken = select("diagnosis_modern_trials", variant="broken")
    named = [row for row in broken if row["outcome"] in ("first", "named")]
    proved = sum(row["proved"] for row in named)
    shown = sum(row["shown"] and not row["proved"] for row in named)
    accused = sum(row["outcome"] == "accused" for row in select("diagnosis_modern_trials", variant="repaired"))
    return (
        f"{len(named)} of {len(broken)} are named, and {accused} repaired ones accused. Of these {len(named)} causes, "
        f"{proved} are proved by a trial, and {shown} more are shown"
    )


def _repositories() -> tuple[int, int, int, int]:
    """Scripts of others that trained under `watch`, their repositories, scripts with a true finding, those accused."""
    trained = [row for row in rows("watch_repositories") if row["measured"]]
    accused = sum(row["accused"] for row in trained)
    defects = sum(bool(row["found"]) for row in trained) - accused
    return len(trained), len({row["repository"] for row in trained}), defects, accused


def _of_physics(*names: str) -> Iterator[tuple[str, str]]:
    """Errors over tanh's, and times over tanh's, of these networks."""
    found = {row[0]: row for row in physics_methods()}
    yield from ((found[name][3], f"{float(found[name][7]):.1f}") for name in names)


@sentences("README.md")
def readme() -> Iterator[str]:
    (ours, time), (best, longer) = _of_physics("sigmoid-core", "piratenet")
    yield f"{ours} of tanh's errors at {time} times its time; PirateNet has {best} at {longer} times"
    ours, tanh, settings = of_peers()
    yield f"{ours} % at 100 layers of digits in the comparison with peers, where tanh with orthogonal weights"
    yield f"{tanh} % with the best of {settings} settings"
    yield f"At 100 layers, learning rates from 0.1 to 3.3 times the rule's give {of_rates('to')} %."
    yield "within three steps: {} % at the end, {} % without it.".format(*_with_and_without("weights x 3"))
    resnet, ours = of_convolutions("to")
    yield f"residual networks are better: {resnet} % against {ours} % for plain convolutions with Sigmoid Core"
    yield "{:.0f} % against {:.0f} to {:.0f} % on CIFAR-10".format(*_of_cifar())
    ours, torchmortem, sagemaker = _held_out()
    yield "the cause of {} of {} programs of real people that no rule was written for".format(*ours)
    yield "torchmortem {} of {}, SageMaker's rules {} of {}.".format(*torchmortem, *sagemaker)
    yield "](docs/benchmarks.md#diagnosis) {} of {}.".format(*_modern())
    scripts, repositories, defects, accused = _repositories()
    yield f"In {scripts} unmodified scripts of {repositories} public repositories, `unstuck`"
    yield f"{defects} real defects and accuses {accused} others."


@sentences("README.zh-CN.md")
def readme_in_chinese() -> Iterator[str]:
    (ours, time), (best, longer) = _of_physics("sigmoid-core", "piratenet")
    yield f"误差为 tanh 的 {ours} 倍，耗时为其 {time} 倍；PirateNet 为 {best} 倍，耗时 {longer} 倍"
    ours, tanh, settings = of_peers()
    yield f"digits 上 100 层的准确率是 {ours} %；tanh 网络配正交权重，试过 {settings} 种设置"
    yield f"{tanh} %。"
    yield f"100 层时，学习率取规则值的 0.1 到 3.3 倍，准确率为 {of_rates('到')} %。"
    yield "最终准确率 {} %，不用它则只有 {} %。".format(*_with_and_without("weights x 3"))
    resnet, ours = of_convolutions("到")
    yield f"在图像上残差网络更好：小规模 Fashion-MNIST 上为 {resnet} %，用 Sigmoid Core 的普通卷积网络为 {ours} %。"
    yield "分别为 {:.0f} % 和 {:.0f} 到 {:.0f} %".format(*_of_cifar())
    (named, count), (by_torchmortem, _), (by_sagemaker, asked) = _held_out()
    yield f"{count} 个真实的失败程序（规则并非针对它们编写）中"
    yield f"{named} 个的原因；torchmortem 找出 {count} 个中的 {by_torchmortem} 个"
    yield f"SageMaker 的规则找出 {asked} 个中的 {by_sagemaker} 个。"
    named, count = _modern()
    yield f"](docs/benchmarks.md#diagnosis) {count} 个中的 {named} 个"
    scripts, repositories, defects, accused = _repositories()
    yield f"在 {repositories} 个公开仓库的 {scripts} 个未改动的脚本中，`unstuck`"
    yield f"了 {defects} 处真实缺陷，另有 {accused} 个脚本被误报。"


def _solvers() -> Iterator[str]:
    """Of differential equations."""
    found = {row[0]: row for row in physics_methods()}
    _, cells, first, over_tanh, over_best, worse, deeper, step = found["sigmoid-core"]
    yield f"has the lowest errors**, {float(over_tanh) / float(found['piratenet'][3]):.1f} of PirateNet's"
    yield f"first or within 10 % in {first} of {cells} cells"
    yield f"worse than tanh by 1.2 in {worse} cells"
    yield f"over the best other network, {over_best} (goal 0.6)"
    yield f"a step's time, {step} (goal 1.15)"
    yield f"its own errors with 16 layers are {float(deeper):.1f} times those with 4"
    alone = {r["problem"]: r["errors"] for r in select("physics_sigmoid_core", depth=8)}
    pairs = [pair for r in rows("physics_equalizer") for pair in zip(r["errors"], alone[r["problem"]], strict=True)]
    yield f"{sum(a == b for a, b in pairs)} of {len(pairs)} trainings are the same, digit by digit"


@sentences("benchmarks/DETAILS.md")
def benchmarks() -> Iterator[str]:
    shallow, deep = (one("depth", method="core", depth=layers)["accuracy"] for layers in (10, 1000))
    deepest = one("depth", depth=10_000)["accuracy"]
    yield f"{min(shallow, deep):.0f} % on digits from 10 to 1,000 layers, {deepest:.1f} % at 10,000"
    yield f"{of_rates('to')} % from 0.1 to 3.3 times the rule's rate"
    yield _proofs()
    yield from _solvers()
    broken = select("diagnosis_failures", variant="broken")
    named = sum(row["outcome"] in ("first", "named") for row in broken)
    yield f"{named} of {len(broken)} real failures"
    held_out = [row["outcome"] for row in select("diagnosis_failures_held_out", variant="broken")]
    count, named, other = len(held_out), held_out.count("first") + held_out.count("named"), held_out.count("another")
    yield f"{named} of {count} are named ({100 * named / count:.0f} %)"
    yield f"{other} get another cause ({100 * other / count:.0f} %)"
    judged = [row["accused"] for row in rows("healthy_zoo") if row["error"] is None]
    yield f"{sum(judged)} accusations in {len(judged)} diagnoses ({100 * sum(judged) / len(judged):.1f} %)"
    harm = [row for row in rows("equalizer") if "ratio" in row]
    worst, mean = max(harm, key=lambda row: row["ratio"]), geometric_mean([row["ratio"] for row in harm])
    errors = math.log(worst["ratio"]) / worst["error"]
    yield f"The mean is {mean:.2f}. The worst row is {worst['ratio']:.2f}, {errors:.1f} standard errors above 1."
    orders = [row["other_order"] for row in harm]
    yield f"Another order of the batches alone changes the loss by factors from {min(orders):.2f} to {max(orders):.2f}."
    for fault in ("8", "0.05"):
        row = one("equalizer", task=f"digits, two slopes x {fault}")
        yield f"times {fault}: {row['watched']:.1f} % with it, {row['alone']:.1f} % without"
    rescued = [row["rescued"] for row in rows("rescues")]
    yield f"{sum(rescued)} of {len(rescued)} are rescued"
    deep = {row["method"]: row for row in select("peers", data="digits", depth=100)}
    ours, tanh, dks, rezero = (deep[name] for name in ("sigmoid-core", "tanh-orthogonal", "dks", "rezero"))
    below = max(ours["accuracy"] - row["accuracy"] for row in (tanh, dks))
    fastest = min(
        row["seconds_in_all"] for name, row in deep.items() if name[:12] != "sigmoid-core" and row["accuracy"] >= 95
    )
    yield f"takes {ours['seconds_in_all']:.0f} seconds, the fastest of the others that reach 95 % {fastest:.0f}"
    yield f"at most {below:.1f} points below with the best of {dks['settings']} and {tanh['settings']} settings"
    deepest = {row["method"]: percent(row["accuracy"]) for row in select("peers", data="digits", depth=1000)}
    yield f"Sigmoid Core ({deepest['sigmoid-core']}) is level with DKS ({deepest['dks']}, the best of 20 settings)"
    yield f"residual branches that start at 0 {deepest['resnet-zero']}"
    yield f"tanh with orthogonal weights {deepest['tanh-orthogonal']}"
    yield f"With skips, ReZero is better: {deepest['rezero']}."
    yield f"ReZero is {rezero['accuracy'] - ours['accuracy']:.1f} points better at 100 layers"
    names = ("sigmoid-core, all rates", "tanh-orthogonal", "dks", "resnet-zero")
    basins = [f"{deep[name]['basin']:.0f}" for name in names]
    words = ("Sigmoid Core", "tanh with orthogonal weights", "DKS", "residual branches that start at 0")
    yield f"Basins: {', '.join(map(' '.join, zip(words, basins, strict=True)))}."
    differences = [row["below_best"] for row in rows("learning_rate") if row["method"] == "core"]
    yield f"within {max(differences):.1f} points of the best of its row"
    ended, runs = (sum(row[name] for row in rows("exit_codes")) for name in ("as_expected", "runs"))
    yield f"{ended} of {runs} runs end with the documented exit code"


@sentences("docs/equalizer.md")
def equalizer() -> Iterator[str]:
    yield "{} % with it, {} % without; half".format(*_with_and_without("weights x 3"))
    yield "{} and {} %".format(*_with_and_without("half of the neurons shut"))
    for fault in ("8", "0.05"):
        row = one("equalizer", task=f"digits, two slopes x {fault}")
        yield f"times {fault}: {row['watched']:.1f} % with it, {row['alone']:.1f} % without"


@sentences("docs/benchmarks.md")
def benchmarks_in_short() -> Iterator[str]:
    """The sentences of the long page that the short one has, too, and its own on differential equations."""
    names = ("piratenet", "sigmoid-core", "sigmoid-core-plain", "modified-mlp", "fourier-features", "residual")
    pirate, ours, plain, modified, fourier, residual = _of_physics(*names)
    yield f"PirateNet's errors are {pirate[0]} times tanh's, at {pirate[1]} times its time; Sigmoid Core's"
    yield f"{ours[0]} times, at {ours[1]} times its time"
    yield f"plain networks of cores {plain[0]}, the modified MLP {modified[0]}, Fourier features {fourier[0]}, residual"
    yield f"networks {residual[0]}."
    ends = ("real failures", " %)", "rate")
    for sentence in benchmarks():
        if sentence.endswith(ends) and "within" not in sentence:
            yield sentence
