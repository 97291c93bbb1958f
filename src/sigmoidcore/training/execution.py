"""A training whose data, network and place are known: it is shown, and its folder is written."""

import io

import sigmoidcore as sc
from sigmoidcore.training.choice import Choice, recipe_of
from sigmoidcore.training.display import Screen, count, metric_text, number, place_in
from sigmoidcore.training.loop import EVALUATED, not_finite
from sigmoidcore.training.networks import Network, network
from sigmoidcore.training.place import LostError, Place, launched
from sigmoidcore.training.recording import RecordedTraining, probes, save_figures
from sigmoidcore.training.runs.folder import Run
from sigmoidcore.training.runs.state import State, seed_all
from sigmoidcore.training.session import FAILURES, CtrlC, Stopped, failed, interrupted
from sigmoidcore.training.use.evaluate import Evaluation, evaluate_network
from sigmoidcore.training.use.predict import batch_size_for, outputs_of

_CONTENTS = (
    ("model.safetensors", "weights, slopes and shifts"),
    ("metrics.jsonl", "every epoch, and every measurement of the gradient"),
    ("figures", "profiles, curves, heat map"),
    ("diagnosis.html", "the diagnosis of the network"),
    ("checkpoints", "the last two and the best, for --resume"),
    ("config.toml", "all options, for --config"),
)


def lead(choice: Choice, place: Place, ctrl_c: CtrlC, state: State | None, run: Run) -> None:
    """Train on the first process, which shows the training and writes the run's folder."""
    screen = Screen.of_stdout()
    screen.heading(choice.heading)
    for line in (choice.data.summary, *choice.data.notes, *choice.notes, place.words):
        if line:
            screen.say(line)
    screen.verbatim(f"into {run.folder}", style="dim")
    run.save_preprocessing(choice.data.preprocessing)
    if state is None:
        run.log("data", columns=dict(choice.data.fingerprint), metric=choice.data.metric_name)
    training: RecordedTraining | None = None
    outcome = "finished"
    error: Exception | None = None
    try:
        training = _training(choice, place, ctrl_c, state, screen, run)
        training.train(screen)
    except KeyboardInterrupt:
        outcome = "interrupted"
    except FAILURES as problem:
        outcome, error = "failed", problem
    if error is None:
        place.leave()
    evaluation: Evaluation | None = None
    try:
        evaluation = _write_results(choice, run, training, outcome, str(error or ""))
    except OSError as problem:
        error = error or problem  # of a full disk, report the first file that could not be written
    if training is not None and training.result.accuracies and not isinstance(error, BrokenPipeError):
        _summarize(screen, training, evaluation)
    if outcome == "interrupted":
        raise _interruption(training, run, ctrl_c.code)
    if error is not None:
        raise explain(error, run) from error
    screen.heading("Written")
    screen.listing([(str(run.folder / name), what) for name, what in _CONTENTS])


def follow(choice: Choice, place: Place, ctrl_c: CtrlC, state: State | None) -> None:
    """Train on another process than the first; nothing is shown or written."""
    screen = Screen.of_file(io.StringIO())
    try:
        _training(choice, place, ctrl_c, state, screen).train(screen)
        place.leave()
    except KeyboardInterrupt as error:
        place.leave()
        raise interrupted("interrupted", ctrl_c.code) from error
    except FAILURES as error:
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
        return failed(
            f"{reason}; the last checkpoint is kept; to resume, with any number of processes: sigmoid-core train "
            f"--resume {run.folder}"
        )
    return failed(f"{reason}; the results so far are in {run.folder}")


def _training(
    choice: Choice, place: Place, ctrl_c: CtrlC, state: State | None, screen: Screen, run: Run | None = None
) -> RecordedTraining:
    """Make the network, prepared or resumed, and its training."""
    options, data = choice.options, choice.data
    seed_all(options.seed)
    model = network(options.network, **choice.sizes).model
    if state is not None:
        screen.say(f"resumed after step {state.step:,}")
    else:
        inputs, targets = probes(data)
        report = sc.prepare(model, inputs, targets=targets, loss_fn=data.loss_fn, saturation=options.saturation)
        before, after = number(report.before.spread), number(report.after.spread)
        screen.say(f"prepared in {report.seconds:.1f} s: spread {before} -> {after}")
        for note in report.notes:
            screen.say(note)
    ctrl_c.check()
    return RecordedTraining(
        "Sigmoid Core", model, data, recipe_of(options, data), ctrl_c, run=run, state=state, place=place,
        save_every=options.save_every,
    )  # fmt: skip


def _write_results(
    choice: Choice, run: Run, training: RecordedTraining | None, outcome: str, message: str
) -> Evaluation | None:
    """Write the closing files; returns the evaluation on the test part, if an epoch has ended."""
    step, evaluation = 0, None
    known: dict[str, float] = {}
    if training is not None:
        step, model, data = training.training.step, training.twin, choice.data
        made = Network(choice.options.network, choice.sizes, model)
        if not_finite(model.state_dict()) is None:
            run.save_weights(made)
            if outcome == "finished":
                run.save_diagnosis(sc.diagnose(model, *probes(data), data.loss_fn))
        if outcome != "failed" and training.result.accuracies:
            inputs, targets = data.probes(EVALUATED)
            known["training"] = data.metric(outputs_of(made, inputs), targets) / (100 if data.kind.is_class else 1)
            batches = data.test_batches(batch_size_for(data.shape))
            evaluation = evaluate_network(
                run.folder.name, data.name, made, data.preprocessing, batches, training=known["training"]
            )
        save_figures(run, [training])
        report = io.StringIO()
        _summarize(Screen.of_file(report), training, evaluation)
        run.save_report(report.getvalue().lstrip())
    run.log("end", outcome=outcome, step=step, message=message, **known)
    return evaluation


def _interruption(training: RecordedTraining | None, run: Run, code: int) -> Stopped:
    if training is None or not training.training.step:
        return interrupted(f"interrupted before the first step; the results so far are in {run.folder}", code)
    return interrupted(
        f"interrupted after step {training.training.step:,} of {training.training.steps:,}; metrics, figures and "
        f"weights are in {run.folder}; to resume: sigmoid-core train --resume {run.folder}",
        code,
    )


def _summarize(screen: Screen, training: RecordedTraining, evaluation: Evaluation | None) -> None:
    result, task, loop = training.result, training.data.task, training.training
    layers = count(training.layers, place_in(training.end))
    screen.heading(f"{layers}, {len(result.accuracies)} of {count(training.recipe.epochs, 'epoch')}")
    early = ", validation did not improve any more" if loop.stopped_early else ""
    rows = [["steps", f"{loop.step:,} of {loop.steps:,}{early}"]]
    if result.accuracies:
        rows.append([f"test {task.metric_name}", metric_text(task, result.accuracies[-1])])
        if evaluation is not None:
            baseline = evaluation.scores[0].baseline_text if evaluation.classes else metric_text(task, 0.0)
            rows.append([evaluation.always, baseline])
        if result.validations:
            best = result.validations[training.best_epoch - 1]
            rows.append([f"validation {task.metric_name}", metric_text(task, result.validations[-1])])
            rows.append([f"best epoch, {training.best_epoch}", metric_text(task, best)])
        rows.append(["training loss", f"{result.losses[-1]:.3g}"])
    rows += [["spread at start", number(training.start.spread)], ["spread at end", number(training.end.spread)]]
    if training.step_seconds:
        rows.append(["time per step", f"{training.milliseconds:.1f} ms"])
    screen.table(["", training.name], rows, strong=1)
    if evaluation is not None and evaluation.uneven:
        screen.say()
        screen.classes(evaluation.classes)
    screen.say()
    screen.profile(training.end)
    for sentence in () if evaluation is None else evaluation.verdicts:
        screen.say()
        screen.say(sentence, style="bold")
