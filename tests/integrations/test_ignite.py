"""The engine of pytorch-ignite: the handler records and changes the same as in a plain loop."""

import pytest
import torch
from ignite.engine import Engine, Events, create_supervised_trainer
from ignite.handlers import Checkpoint, DiskSaver
from support.trainings import CLIP, STEPS, Outcome, adam, assert_detached, batch, batches, network, plain
from torch import nn

from sigmoidcore.integrations.ignite import SigmoidCoreHandler

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("default")]


def training(**options):
    """A trainer with a handler, and what they are made of."""
    model = network()
    optimizer = adam(model)

    def update(engine, _):
        x, y = batch(engine.state.iteration - 1)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x.double()), y).backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()

    trainer = Engine(update)
    return trainer, SigmoidCoreHandler(model, optimizer, **options).attach(trainer), model, optimizer


def steps(handler):
    return [sample.step for sample in handler.equalizer.history]


def outcome(model, handler):
    return Outcome(model, handler.equalizer, handler.monitor)


def test_a_training_is_that_of_a_plain_loop():
    trainer, handler, model, optimizer = training(every=1, monitor_every=3)
    trainer.run(batches(), max_epochs=1)
    outcome(model, handler).assert_that_of_a_plain_loop()
    assert_detached(model, optimizer, handler)
    assert handler.diagnosis().history


def test_micro_batches_are_joined_and_gradients_are_unscaled():
    model = network()
    optimizer, scaler = adam(model), torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=12)
    # Its amp mode has autocast for CUDA only, which does nothing here.
    trainer = create_supervised_trainer(
        model, optimizer, nn.CrossEntropyLoss(), gradient_accumulation_steps=3, scaler=scaler,
        prepare_batch=lambda batch, *_, **__: (batch[0].double(), batch[1]), amp_mode="amp",
    )  # fmt: skip
    handler = SigmoidCoreHandler(model, optimizer, scaler=scaler, every=1, monitor_every=3).attach(trainer)
    trainer.run(batches(3 * STEPS), max_epochs=1)
    outcome(model, handler).assert_same(plain(micro=3, clip=None))


def test_a_training_continues_from_a_checkpoint_of_ignite(tmp_path):
    def outcome_of(path=None, folder=None):
        trainer, handler, model, optimizer = training(monitor_every=5)
        parts = {"trainer": trainer, "model": model, "optimizer": optimizer, "sigmoidcore": handler}
        if folder is not None:
            saver = Checkpoint(parts, DiskSaver(folder, create_dir=True), n_saved=None)
            trainer.add_event_handler(Events.EPOCH_COMPLETED, saver)
        if path is not None:
            Checkpoint.load_objects(parts, torch.load(path, weights_only=True))
        trainer.run(batches(6), max_epochs=4)
        return outcome(model, handler)

    whole = outcome_of(folder=tmp_path)
    whole.assert_resumable()
    outcome_of(path=tmp_path / "checkpoint_12.pt").assert_same(whole)


def test_a_terminated_trainer_continues():
    trainer, handler, _, _ = training(every=1, monitor_every=3)
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=5), trainer.terminate)
    trainer.run(batches(4), max_epochs=3)
    assert steps(handler) == list(range(5))
    trainer.run(batches(4), max_epochs=3)
    assert steps(handler) == list(range(trainer.state.iteration))
    assert trainer.state.iteration > 5


def test_after_an_error_remove_detaches_the_handler():
    trainer, handler, model, optimizer = training(every=1, monitor_every=1)
    trainer.add_event_handler(Events.ITERATION_STARTED(once=3), lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trainer.run(batches(), max_epochs=1)
    assert [m.step for m in handler.monitor.measurements] == steps(handler) == [0, 1]
    handler.remove()
    assert_detached(model, optimizer, handler)
