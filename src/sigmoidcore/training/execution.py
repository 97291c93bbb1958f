"""The execution of a training whose data, network and place are known: it is shown, and its folder is written."""

import io

import sigmoidcore as sc
from sigmoidcore.core import SigmoidCore
from sigmoidcore.training import not_finite, session
from sigmoidcore.training.choice import Choice, recipe_of
from sigmoidcore.training.course import Record, RecordedTraining, probes, save_figures
from sigmoidcore.training.display import Screen, count, metric_text, number, place
from sigmoidcore.training.networks import Network
from sigmoidcore.training.place import LostError, Place, launched
from sigmoidcore.training.runs.folder import Run
from sigmoidcore.training.runs.state import State, seed_all
from sigmoidcore.training.session import CtrlC, Stopped
from sigmoidcore.training.tensorboard import FOLDER, Board


def lead(choice: Choice, where: Place, ctrl_c: CtrlC, state: State | None, run: Run, screen: Screen) -> None:
    """Train on the first process, which shows the training and writes the run's folder."""
    data = choice.data
    record = Record("Sigmoid Core" if choice.options.model is None else choice.folder, task=data.task)
    screen.heading(choice.heading)
    for line in (data.summary, *data.notes, *choice.notes, where.words):
        if line:
            screen.say(line)
    screen.verbatim(f"into {run.folder}", style="dim")
    run.save_preprocessing(data.preprocessing)
    networks: list[Network] = []
    board = Board(run.folder, state.step if state else 0) if choice.options.tensorboard else None
    error: Exception | None = None
    outcome = "finished"
    try:
        _train(choice, where, ctrl_c, state, run, screen, record, networks, board)
        where.leave()
    except KeyboardInterrupt:
        outcome = "interrupted"
        where.leave()
    except session.FAILURES as problem:
        outcome, error = "failed", problem
    try:
        if board is not None:
            board.close()
        _write_results(choice, run, record, networks, outcome, str(error or ""))
    except OSError as problem:
        error = error or problem  # of a full disk, report the first file that could not be written
    if record.result.accuracies and not isinstance(error, BrokenPipeError):
        _summarize(screen, record, choice.options.epochs)
    if outcome == "interrupted":
        raise _interruption(record, run, ctrl_c.code)
    if error is not None:
        raise explain(error, run) from error
    screen.heading("Written")
    screen.listing([(str(run.folder / name), what) for name, what in _CONTENTS if name != FOLDER or board is not None])


def follow(choice: Choice, where: Place, ctrl_c: CtrlC, state: State | None) -> None:
    """Train on another process than the first; nothing is shown or written."""
    record = Record(choice.folder, task=choice.data.task)
    try:
        _train(choice, where, ctrl_c, state, None, Screen.of_file(io.StringIO()), record, [], None)
        where.leave()
    except KeyboardInterrupt as error:
        where.leave()
        raise session.interrupted("interrupted", ctrl_c.code) from error
    except session.FAILURES as error:
        rank, total = launched()
        shared = isinstance(error, FloatingPointError | LostError)
        message = f"process {rank + 1} of {total}: {str(error) or type(error).__name__}"
        raise Stopped(message, 1, local=not shared) from error


def explain(error: Exception, run: Run) -> Stopped:
    """The end of a run that failed, after its results are written."""
    if isinstance(error, BrokenPipeError):
        raise error
    reason = str(error) or type(error).__name__
    if isinstance(error, MemoryError) or "can't allocate memory" in reason or "out of memory" in reason:
        reason = "not enough memory: lower the width, the depth or the batch size"
    if isinstance(error, LostError):
        return session.failed(
            f"{reason}; the last checkpoint is kept; to resume, with any number of processes: sigmoid-core train "
            f"--resume {run.folder}"
        )
    return session.failed(f"{reason}; the results so far are in {run.folder}")


_CONTENTS = (
    ("model.safetensors", "weights, slopes and shifts"),
    ("metrics.jsonl", "every epoch, and every measurement of the gradient"),
    (FOLDER, "for TensorBoard"),
    ("figures", "profiles, curves, heat map"),
    ("diagnosis.html", "the diagnosis of the network"),
    ("checkpoints", "the last two and the best, for --resume"),
    ("config.toml", "all options, for --config"),
)


def _train(
    choice: Choice, where: Place, ctrl_c: CtrlC, state: State | None, run: Run | None, screen: Screen, record: Record,
    networks: list[Network], board: Board | None,
) -> None:  # fmt: skip
    """Make, prepare and train the network; `networks` gets a copy on the CPU, with the last weights."""
    options, data = choice.options, choice.data
    seed_all(options.seed)
    network = choice.make()
    networks.append(network)
    if state is not None:
        screen.say(f"resumed after step {state.step:,}")
    elif options.prepare:
        inputs, targets = probes(data)
        report = sc.prepare(network.model, inputs, targets=targets, loss_fn=data.loss_fn, saturation=options.saturation)
        before, after = number(report.before.spread), number(report.after.spread)
        screen.say(f"prepared in {report.seconds:.1f} s: spread {before} -> {after}")
        for note in report.notes:
            screen.say(note)
    ctrl_c.check()
    training = RecordedTraining(
        network.model, data, record, run, ctrl_c, save_every=options.save_every, place=where, board=board
    )
    networks[:] = [Network(network.architecture, network.sizes, training.twin)]
    has_cores = any(isinstance(module, SigmoidCore) for module in network.model.modules())
    training.train(screen, recipe_of(options, data, equalize=has_cores), state)


def _write_results(
    choice: Choice, run: Run, record: Record, networks: list[Network], outcome: str, message: str
) -> None:
    if networks and not_finite.describe_weights(networks[0].model.state_dict(), record.done) is None:
        run.save_weights(networks[0])
        if outcome == "finished":
            inputs, targets = probes(choice.data)
            run.save_diagnosis(sc.diagnose(networks[0].model, inputs, targets, choice.data.loss_fn))
    save_figures(run, {record.name: record})
    report = io.StringIO()
    _summarize(Screen.of_file(report), record, choice.options.epochs)
    run.save_report(report.getvalue().lstrip())
    run.log("end", outcome=outcome, step=record.done, message=message)


def _interruption(record: Record, run: Run, code: int) -> Stopped:
    if not record.done:
        return session.interrupted(f"interrupted before the first step; the results so far are in {run.folder}", code)
    return session.interrupted(
        f"interrupted after step {record.done:,} of {record.steps:,}; metrics, figures and weights are in "
        f"{run.folder}; to resume: sigmoid-core train --resume {run.folder}",
        code,
    )


def _summarize(screen: Screen, record: Record, epochs: int) -> None:
    result, task = record.result, record.task
    layers = f"{count(record.layers, place(record.end))}, " if record.profiles else ""
    screen.heading(f"{layers}{len(result.accuracies)} of {count(epochs, 'epoch')}")
    early = ", validation did not improve any more" if record.stopped_early else ""
    rows = [["steps", f"{record.done:,} of {record.steps:,}{early}"]]
    if result.accuracies:
        rows.append([f"test {task.metric_name}", metric_text(task, result.accuracies[-1])])
        if result.validations:
            rows.append([f"validation {task.metric_name}", metric_text(task, result.validations[-1])])
        rows.append(["training loss", f"{result.losses[-1]:.3g}"])
    if record.profiles:
        rows += [["spread at start", number(record.start.spread)], ["spread at end", number(record.end.spread)]]
    if record.step_seconds:
        rows.append(["time per step", f"{record.milliseconds:.1f} ms"])
    screen.table(["", record.name], rows, strong=1)
    if record.profiles:
        screen.say()
        screen.profile(record.end)
