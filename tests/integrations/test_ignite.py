"""The handler in an engine of pytorch-ignite: it sees and does the same as in a plain loop."""

import pytest
import torch
from ignite.engine import Engine, Events, create_supervised_trainer
from ignite.handlers import Checkpoint, DiskSaver
from torch import nn
from trainings import CLIP, STEPS, Outcome, adam, assert_detached, batch, batches, network, plain

from sigmoidcore.integrations.ignite import SigmoidCoreHandler

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("default")]


def trainer_of(model, optimizer):
    def update(engine, _):
        x, y = batch(engine.state.iteration - 1)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x.double()), y).backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()

    return Engine(update)


def outcome(model, handler):
    return Outcome(model, handler.equalizer, handler.monitor)


def test_a_training_equals_a_plain_loop():
    model = network()
    optimizer = adam(model)
    trainer = trainer_of(model, optimizer)
    handler = SigmoidCoreHandler(model, optimizer, every=1, monitor_every=3).attach(trainer)
    trainer.run(batches(), max_epochs=1)
    outcome(model, handler).assert_that_of_a_plain_loop()
    assert handler.diagnosis().history


def test_a_wrong_argument_is_refused_before_the_training():
    model = network()
    with pytest.raises(TypeError, match=r"model must be a .*, got Adam: it comes first"):
        SigmoidCoreHandler(adam(model), model)
    with pytest.raises(TypeError, match=r"optimizer must be .*, got None"):
        SigmoidCoreHandler(model, None)
    with pytest.raises(ValueError, match="floor must be between 0 and 1"):
        SigmoidCoreHandler(model, adam(model), floor=2)


def test_micro_batches_are_joined_and_gradients_are_unscaled():
    model = network()
    optimizer, scaler = adam(model), torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=12)
    trainer = create_supervised_trainer(
        model, optimizer, nn.CrossEntropyLoss(), gradient_accumulation_steps=3, scaler=scaler,
        prepare_batch=lambda batch, *_, **__: (batch[0].double(), batch[1]), amp_mode="amp",
    )  # fmt: skip
    # Its amp mode has autocast for CUDA only, which does nothing here.
    handler = SigmoidCoreHandler(model, optimizer, scaler=scaler, every=1, monitor_every=3).attach(trainer)
    trainer.run(batches(3 * STEPS), max_epochs=1)
    outcome(model, handler).assert_same(plain(micro=3, clip=None))


def test_a_training_resumed_from_a_checkpoint_equals_an_uninterrupted_one(tmp_path):
    def run(path=None, folder=None):
        model = network()
        optimizer = adam(model)
        trainer = trainer_of(model, optimizer)
        handler = SigmoidCoreHandler(model, optimizer, monitor_every=5).attach(trainer)
        parts = {"trainer": trainer, "model": model, "optimizer": optimizer, "sigmoidcore": handler}
        if folder is not None:
            saver = Checkpoint(parts, DiskSaver(folder, create_dir=True), n_saved=None)
            trainer.add_event_handler(Events.EPOCH_COMPLETED, saver)
        if path is not None:
            Checkpoint.load_objects(parts, torch.load(path, weights_only=True))
        trainer.run(batches(6), max_epochs=4)
        return outcome(model, handler)

    whole = run(folder=tmp_path)
    assert sum(sample.slopes for sample in whole.history) > 0
    assert [step for step, *_ in whole.measured] == [0, 5, 10, 15, 20]
    assert len({b.step - a.step for a, b in zip(whole.history, whole.history[1:], strict=False)}) > 1  # the cadence
    run(path=tmp_path / "checkpoint_12.pt").assert_same(whole)


def test_a_terminated_trainer_can_continue():
    model = network()
    optimizer = adam(model)
    trainer = trainer_of(model, optimizer)
    handler = SigmoidCoreHandler(model, optimizer, every=1, monitor_every=3).attach(trainer)
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=5), trainer.terminate)
    trainer.run(batches(4), max_epochs=3)
    assert [sample.step for sample in handler.equalizer.history] == list(range(5))
    trainer.run(batches(4), max_epochs=3)
    assert [sample.step for sample in handler.equalizer.history] == list(range(trainer.state.iteration))
    assert trainer.state.iteration > 5


@pytest.mark.parametrize("handled", [False, True])
def test_an_error_detaches_the_handler_and_is_raised_unless_another_handler_takes_it(handled):
    model, caught = network(), []
    optimizer = adam(model)
    trainer = trainer_of(model, optimizer)
    handler = SigmoidCoreHandler(model, optimizer, every=1, monitor_every=1).attach(trainer)
    trainer.add_event_handler(Events.ITERATION_STARTED(once=3), lambda: 1 / 0)
    if handled:
        trainer.add_event_handler(Events.EXCEPTION_RAISED, caught.append)
        trainer.run(batches(), max_epochs=1)
        assert caught
    else:
        with pytest.raises(ZeroDivisionError):
            trainer.run(batches(), max_epochs=1)
    assert [m.step for m in handler.monitor.measurements] == [0, 1]
    assert_detached(handler, model.double(), optimizer)


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_an_error_detaches_several_handlers_and_is_raised(error):
    models = [network(), network()]
    optimizers = [adam(model) for model in models]

    def update(engine, rows):
        if engine.state.iteration == 3:
            raise error
        x, y = rows
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x.double()), y).backward()
            optimizer.step()

    trainer = Engine(update)
    handlers = [
        SigmoidCoreHandler(model, optimizer, every=1, monitor_every=1).attach(trainer)
        for model, optimizer in zip(models, optimizers, strict=True)
    ]
    with pytest.raises(error):
        trainer.run(batches(), max_epochs=1)
    for model, optimizer, handler in zip(models, optimizers, handlers, strict=True):
        assert [sample.step for sample in handler.equalizer.history] == [0, 1]
        assert_detached(handler, model, optimizer)
