"""A training whose data, network and place are known: it is shown, and its folder is written."""

import io

import sigmoidcore as sc
from sigmoidcore.training.choice import Choice, recipe_of
from sigmoidcore.training.display import Screen, metric_name, metric_text, number, place_in
from sigmoidcore.training.loop import EVALUATED
from sigmoidcore.training.networks import Network, network
from sigmoidcore.training.place import Place
from sigmoidcore.training.recording import RecordedTraining, save_figures
from sigmoidcore.training.runs.folder import DIAGNOSIS, PREPROCESSING, REPORT, Run
from sigmoidcore.training.runs.state import State, not_finite, seed_all
from sigmoidcore.training.runs.weights import WEIGHTS, save_network
from sigmoidcore.training.session import FAILURES, CtrlC
from sigmoidcore.training.use.evaluate import Evaluation, evaluate_network
from sigmoidcore.training.use.predict import batch_size_for, outputs_of
from unstuck._torch.launcher import launched
from unstuck.files import write_file
from unstuck.language import _, english
from unstuck.language.errors import LostError, Stopped
from unstuck.wording import counted


def lead(choice: Choice, place: Place, ctrl_c: CtrlC, state: State | None, run: Run) -> None:
    """Train on the first process, which shows the training and writes the run's folder."""
    screen = Screen.of_stdout()
    screen.heading(choice.heading)
    for line in (choice.data.summary, *choice.data.notes, *choice.notes, place.words):
        if line:
            screen.say(line)
    screen.verbatim(_("into {folder}", folder=run.folder), style="dim")
    write_file(run.folder / PREPROCESSING, choice.data.preprocessing.to_bytes())
    if state is None:
        run.log("data", columns=dict(choice.data.fingerprint), metric=choice.data.metric_name)
    training: RecordedTraining | None = None
    error: BaseException | None = None
    try:
        training = _training(choice, place, ctrl_c, state, screen, run)
        training.train(screen)
    except (KeyboardInterrupt, *FAILURES) as problem:
        error = problem
    if error is None or isinstance(error, KeyboardInterrupt):
        place.leave()
    evaluation: Evaluation | None = None
    try:
        evaluation = _write_results(choice, run, training, error)
    except OSError as problem:
        error = error or problem  # of a full disk, report the first file that could not be written
    if training is not None and training.result.accuracies and not isinstance(error, BrokenPipeError):
        _summarize(screen, training, evaluation)
    if error is not None:
        raise _stopped(error, run, training, ctrl_c.code) from error
    screen.heading(_("Written"))
    screen.listing([(str(run.folder / name), what) for name, what in _contents()])


def _contents() -> tuple[tuple[str, str], ...]:
    """The files of a run and what they hold."""
    return (
        ("model.safetensors", _("weights, slopes and shifts")),
        ("metrics.jsonl", _("every epoch, and every measurement of the gradient")),
        ("figures", _("profiles, curves, heat map")),
        ("diagnosis.html", _("the diagnosis of the network")),
        ("checkpoints", _("the last two and the best, for --resume")),
        ("config.toml", _("all options, for --config")),
    )


def follow(choice: Choice, place: Place, ctrl_c: CtrlC, state: State | None) -> None:
    """Train on another process than the first; nothing is shown or written."""
    screen = Screen.of_file(io.StringIO())
    try:
        _training(choice, place, ctrl_c, state, screen).train(screen)
        place.leave()
    except KeyboardInterrupt as error:
        place.leave()
        raise Stopped("interrupted", ctrl_c.code) from error
    except FAILURES as error:
        rank, total = launched()
        reason = str(error) or type(error).__name__
        message = _("process {number} of {all}: {reason}", number=rank + 1, all=total, reason=reason)
        raise Stopped(message, local=not isinstance(error, FloatingPointError | LostError)) from error


def _stopped(error: BaseException, run: Run, training: RecordedTraining | None, code: int) -> Stopped:
    """The end of a run that was interrupted or failed, after its results are written."""
    if isinstance(error, BrokenPipeError):
        raise error
    results = _("the results so far are in {folder}", folder=run.folder)
    resume = f"sigmoid-core train --resume {run.folder}"
    if isinstance(error, KeyboardInterrupt):
        loop = None if training is None else training.training
        if loop is None or not loop.step:
            return Stopped("interrupted before the first step; {results}", code, results=results)
        return Stopped(
            "interrupted after step {step:,} of {steps:,}; {results}; to resume: {resume}",
            code,
            step=loop.step,
            steps=loop.steps,
            results=results,
            resume=resume,
        )
    reason = str(error) or type(error).__name__
    if isinstance(error, LostError):
        return Stopped(
            "{reason}; the last checkpoint is kept; to resume, with any number of processes: {resume}",
            reason=reason,
            resume=resume,
        )
    if isinstance(error, MemoryError) or "can't allocate memory" in reason or "out of memory" in reason:
        reason = _("not enough memory: lower the width, the depth or the batch size")
    return Stopped("{reason}; {results}", reason=reason, results=results)


def _training(
    choice: Choice, place: Place, ctrl_c: CtrlC, state: State | None, screen: Screen, run: Run | None = None
) -> RecordedTraining:
    """Make the network, prepared or resumed, and its training."""
    options, data = choice.options, choice.data
    seed_all(options.seed)
    model = network(options.network, **choice.sizes).model
    if state is not None:
        screen.say(_("resumed after step {step}", step=f"{state.step:,}"))
    else:
        inputs, targets = data.probes()
        report = sc.prepare(model, inputs, targets=targets, loss_fn=data.loss_fn, saturation=options.saturation)
        values = {"before": number(report.before.spread), "after": number(report.after.spread)}
        screen.say(_("prepared in {seconds} s: spread {before} -> {after}", seconds=f"{report.seconds:.1f}", **values))
        for note in report.notes:
            screen.say(note)
    ctrl_c.check()
    return RecordedTraining(
        "Sigmoid Core", model, data, recipe_of(options, data), ctrl_c, run=run, state=state, place=place,
        save_every=options.save_every,
    )  # fmt: skip


def _write_results(
    choice: Choice, run: Run, training: RecordedTraining | None, error: BaseException | None
) -> Evaluation | None:
    """Write the closing files; returns the evaluation on the test part, if an epoch has ended."""
    outcome = "finished" if error is None else "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
    step, evaluation = 0, None
    known: dict[str, float] = {}
    if training is not None:
        step, model, data = training.training.step, training.twin, choice.data
        made = Network(choice.options.network, choice.sizes, model)
        if not_finite(model.state_dict()) is None:
            save_network(run.folder / WEIGHTS, made)
            if outcome == "finished":
                text, page = (run.folder / name for name in DIAGNOSIS)
                diagnosis = sc.diagnose(model, *data.probes(), data.loss_fn)
                diagnosis.to_json(text)
                diagnosis.to_html(page)
        if outcome != "failed" and training.result.accuracies:
            inputs, targets = data.probes(EVALUATED)
            known["training"] = data.metric(outputs_of(made, inputs), targets) / (100 if data.kind.is_class else 1)
            batches = data.test_batches(batch_size_for(data.shape))
            evaluation = evaluate_network(
                run.folder.name, data.name, made, data.preprocessing, batches, training=known["training"]
            )
        save_figures(run.folder / "figures", [training])
        report = io.StringIO()
        _summarize(Screen.of_file(report), training, evaluation)
        write_file(run.folder / REPORT, report.getvalue().lstrip().encode())
        if training.recipe.patience is not None:
            known["epoch"] = training.training.kept_epoch
    run.log("end", outcome=outcome, step=step, message=english(str(error or "")), **known)
    return evaluation


def _summarize(screen: Screen, training: RecordedTraining, evaluation: Evaluation | None) -> None:
    result, task, loop = training.result, training.data.task, training.training
    layers = counted(training.layers, place_in(training.end))
    epochs = {"count": len(result.accuracies), "epochs": counted(training.recipe.epochs, "epoch")}
    screen.heading(_("{layers}, {count} of {epochs}", layers=layers, **epochs))
    steps = _("{count} of {all}", count=f"{loop.step:,}", all=f"{loop.steps:,}")
    early = _(", validation did not improve any more") if loop.stopped_early else ""
    rows = [[_("steps"), steps + early]]
    if result.accuracies:
        kept, metric = loop.kept_epoch - 1, metric_name(task)
        rows.append([_("test {metric}", metric=metric), metric_text(task, result.accuracies[kept])])
        if evaluation is not None:
            baseline = evaluation.scores[0].baseline_text if evaluation.classes else metric_text(task, 0.0)
            rows.append([evaluation.always, baseline])
        if result.validations:
            best = result.validations[result.best_epoch - 1]
            rows.append([_("validation {metric}", metric=metric), metric_text(task, result.validations[kept])])
            rows.append([_("best epoch, {epoch}", epoch=result.best_epoch), metric_text(task, best)])
        rows.append([_("training loss"), f"{result.losses[kept]:.3g}"])
    rows += [[_("spread at start"), number(training.start.spread)], [_("spread at end"), number(training.end.spread)]]
    if training.step_seconds:
        rows.append([_("time per step"), f"{training.milliseconds:.1f} ms"])
    screen.table(["", training.name], rows, strong=1)
    if evaluation is not None and evaluation.uneven:
        screen.say()
        screen.classes(evaluation.classes)
    screen.say()
    screen.profile(training.end)
    for sentence in () if evaluation is None else evaluation.verdicts:
        screen.say()
        screen.say(sentence, style="bold")
