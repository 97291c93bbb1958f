"""Time and memory: speed, overheads, folding, and the page of the lab."""

from result_tables.figures import bold, one, rows, select
from result_tables.registry import Cells, table

WIDE = ("1000 x 64 x 100", "100 x 256 x 256", "30 x 1024 x 512")
"""Layers, width and batch."""
SHALLOW = ("100 x 64 x 100", "10 x 64 x 100")
SMALL = ("3 x 64 x 100", "10 x 64 x 100", "30 x 64 x 100")
HIDDEN = ("1 x 100", "3 x 64", "10 x 64", "30 x 64")


def both(figure: str, size: str, key: str, goal: float | None = None, form: str = ".2f") -> tuple[str, str]:
    """A figure with one and with two threads; bold where the goal is missed, and "-" where it was not measured."""

    def cell(threads: int) -> str:
        found = select(f"speed_{threads}", figure=figure, size=size)
        if not found:
            return "-"
        text = f"{found[0][key]:{form}}"
        return bold(text, goal is not None and float(text) > goal)

    return cell(1), cell(2)


@table
def speed() -> Cells:
    for size in (*WIDE, "10000 x 64 x 100"):
        yield f"step over plain, {size}", "1.02", *both("step float32", size, "cores_over_plain", 1.02)
    for size in SMALL:
        yield f"step over plain, {size}", "1.1", *both("step float32", size, "cores_over_plain", 1.1)
    for size in HIDDEN:
        ratios = both("estimators", size, "over_scikit_learn", 2.0)
        yield f"`SigmoidCoreClassifier` over `MLPClassifier`, equal epochs, batches of 200, {size}", "2", *ratios
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
        folded = both("step float32", size, "folded_over_plain", 1.0)
        yield f"inference over plain sigmoids, folded, {size}", "1.00", *folded
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


@table
def speed_converted() -> Cells:
    names = {
        "sequential_over_mlp": "`nn.Sequential`",
        "blocks_over_mlp": "`nn.Sequential` of blocks, each an `nn.Sequential`",
        "loop_over_mlp": "a loop over an `nn.ModuleList` with `torch.tanh`",
        "sequential_over_plain": "`nn.Sequential`, over plain sigmoids",
    }
    for key, name in names.items():
        yield name, *(f"{row[key]:.2f}" for row in select("speed_1", figure="converted"))


@table
def overhead() -> Cells:
    for row in rows("overhead"):
        yield (
            f"{row['depth']:,}",
            bold(f"{row['equalizer_over_without']:.3f}", row["equalizer_over_without"] > 1.02),
            f"{row['lowest']:.3f} to {row['highest']:.3f}",
            f"{row['looks']:.0f}",
            bold(f"{row['prepare_in_steps']:.1f}", row["prepare_in_steps"] > 10),
        )


@table
def diagnosis_overhead() -> Cells:
    for seldom in select("diagnosis_overhead_monitor", every=100):
        network, milliseconds = seldom["network"], seldom["step_ms"]
        always = one("diagnosis_overhead_monitor", network=network, every=1)
        every = {(row["watcher"], row["every"]): row for row in select("diagnosis_overhead", network=network)}
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


@table
def sampled_step() -> Cells:
    for row in select("diagnosis_overhead_monitor", every=1):
        yield row["network"], f"{row['step_ms']:.2g} ms", f"{row['over_alone']:.2f}"


@table
def fold() -> Cells:
    for row in rows("fold"):
        ratios = (row[f"{way}_over_plain"] for way in ("folded", "plain", "cores"))
        yield row["network"], row["pass"], *(f"{ratio:.3f}" for ratio in ratios)


@table
def lab_frames() -> Cells:
    for row in rows("lab_frames"):
        yield (
            row["setup"],
            bold(f"{row['fps']:.1f}", row["fps"] < 59.5) + f" ({row['lowest_fps']:.1f})",
            *(f"{row[key]:.1f}" for key in ("updates_per_s", "main_thread_ms", "browser_ms", "longest_drawing_ms")),
            bold(f"{row['first_paint_ms']:.0f}", row["first_paint_ms"] > 1000) + f" ({row['latest_paint_ms']:.0f})",
        )
