"""The callback in Lightning's Trainer: it sees and does the same as in a plain loop."""

import importlib
import multiprocessing
import os

import lightning.pytorch as lightning
import pytest
import torch
from torch import nn
from trainings import CLIP, RATE, STEPS, Outcome, adam, assert_detached, batches, cores, network, plain
from trainings import batch as batch_of

from sigmoidcore import Equalizer, Monitor
from sigmoidcore.integrations.lightning import SigmoidCoreCallback
from sigmoidcore.integrations.sinks import TensorBoard

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("default")]

PACKAGES = ["lightning.pytorch", "pytorch_lightning"]


def module_of(package, manual=False, by_step=False, dtype=torch.float64):
    """A LightningModule of one of the packages."""

    class Classifier(importlib.import_module(package).LightningModule):
        def __init__(self):
            super().__init__()
            self.network = network(dtype)
            self.automatic_optimization = not manual

        def training_step(self, batch, batch_idx):
            # Lightning goes on with a batch of the epoch that is over; here a step has its own, whatever comes.
            x, y = batch_of(self.trainer.global_step) if by_step else batch
            loss = nn.functional.cross_entropy(self.network(x.to(dtype)).to(dtype), y)
            if manual:
                optimizer = self.optimizers()
                optimizer.zero_grad()
                self.manual_backward(loss)
                self.clip_gradients(optimizer, CLIP, "norm")
                optimizer.step()
            return loss

        def configure_optimizers(self):
            return adam(self)

    return Classifier()


def trainer_of(package, *callbacks, steps=STEPS, **options):
    options = {"gradient_clip_val": CLIP, "logger": False, "enable_checkpointing": False} | options
    return importlib.import_module(package).Trainer(
        max_steps=steps,
        callbacks=list(callbacks),
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def outcome(module, callback):
    return Outcome(module.network, callback.equalizer, callback.monitor)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_training_equals_a_plain_loop(package):
    module, callback = module_of(package), SigmoidCoreCallback(every=1, monitor_every=3)
    trainer_of(package, callback).fit(module, batches())
    outcome(module, callback).assert_that_of_a_plain_loop()
    assert callback.diagnosis().history


def test_micro_batches_are_joined():
    module, callback = module_of(PACKAGES[0]), SigmoidCoreCallback(every=1, monitor_every=3)
    trainer_of(PACKAGES[0], callback, accumulate_grad_batches=3).fit(module, batches(3 * STEPS))
    outcome(module, callback).assert_same(plain(micro=3))


def test_manual_optimization_equals_a_plain_loop():
    module, callback = module_of(PACKAGES[0], manual=True), SigmoidCoreCallback(every=1, monitor_every=3)
    trainer_of(PACKAGES[0], callback, gradient_clip_val=None).fit(module, batches())
    outcome(module, callback).assert_same(plain())


@pytest.mark.parametrize("package", PACKAGES)
def test_a_training_resumed_from_a_checkpoint_equals_an_uninterrupted_one(package, tmp_path):
    callbacks = importlib.import_module(package).callbacks

    def fit(path=None):
        module, callback = module_of(package, by_step=True), SigmoidCoreCallback(monitor_every=5)
        saver = callbacks.ModelCheckpoint(tmp_path, save_top_k=-1, filename="{step}")
        trainer_of(package, callback, saver, steps=24, enable_checkpointing=True).fit(
            module, batches(6), ckpt_path=path
        )
        return outcome(module, callback)

    whole = fit()
    assert sum(sample.slopes for sample in whole.history) > 0
    assert [step for step, *_ in whole.measured] == [0, 5, 10, 15, 20]
    assert len({b.step - a.step for a, b in zip(whole.history, whole.history[1:], strict=False)}) > 1  # the cadence
    fit(tmp_path / "step=12.ckpt").assert_same(whole)
    checkpoint = torch.load(tmp_path / "step=12.ckpt", weights_only=False)
    state = checkpoint["callbacks"]["SigmoidCoreCallback{'module': ''}"]
    assert state["equalizer"]["step"] == state["monitor"]["step"] == 12


def test_a_second_fit_for_more_steps_continues():
    module, callback = module_of(PACKAGES[0]), SigmoidCoreCallback(every=1, monitor_every=3)
    trainer = trainer_of(PACKAGES[0], callback, steps=4)
    trainer.fit(module, batches(4))
    trainer.fit_loop.epoch_loop.max_steps = 8
    trainer.fit(module, batches(4))
    assert [sample.step for sample in callback.equalizer.history] == list(range(8))
    assert [m.step for m in callback.monitor.measurements] == [0, 3, 6]


def test_gradients_of_a_scaled_loss_are_unscaled_and_skipped_steps_are_not_sampled():
    from lightning.pytorch.plugins import MixedPrecision

    def scaler():
        return torch.amp.GradScaler("cpu", init_scale=2.0**20, growth_interval=4)

    module = module_of(PACKAGES[0], dtype=torch.float32)
    callback = SigmoidCoreCallback(every=1, monitor_every=3)
    plugin = MixedPrecision("16-mixed", "cpu", scaler())
    trainer_of(PACKAGES[0], callback, plugins=[plugin], steps=-1, max_epochs=1).fit(module, batches())

    model, ours = network(torch.float32), scaler()
    optimizer, skipped = adam(model), 0
    with Equalizer(model, optimizer, every=1, scaler=ours) as equalizer, Monitor(model, 3, scaler=ours) as monitor:
        for x, y in batches():
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.float16, cache_enabled=False):
                outputs = model(x)
            ours.scale(nn.functional.cross_entropy(outputs.float(), y)).backward()
            ours.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            before = ours.get_scale()
            ours.step(optimizer)
            ours.update()
            skipped += ours.get_scale() < before
    assert 0 < skipped < STEPS
    found = outcome(module, callback)
    assert len(found.history) == STEPS - skipped
    assert max(found.history[0].log_sizes) < 0
    found.assert_same(Outcome(model, equalizer, monitor))


class AsMade(lightning.LightningModule):
    """In float32, as a user makes it; Lightning changes the type of it and of its batches."""

    def __init__(self):
        super().__init__()
        self.network = network(torch.float32)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=RATE)  # Adam's squares are 0 in float16


@pytest.mark.parametrize(
    ("precision", "dtype", "autocast"),
    [
        ("64-true", torch.float64, None),
        ("32-true", torch.float32, None),
        ("16-true", torch.float16, None),
        ("bf16-true", torch.bfloat16, None),
        ("bf16-mixed", torch.float32, torch.bfloat16),
    ],
)
def test_every_precision_equals_a_plain_loop(precision, dtype, autocast):
    module, callback = AsMade(), SigmoidCoreCallback(every=1, monitor_every=3)
    trainer_of(PACKAGES[0], callback, steps=6, precision=precision).fit(module, batches(6))
    found = outcome(module, callback)

    model = network(torch.float32).to(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    with Equalizer(model, optimizer, every=1) as equalizer, Monitor(model, 3) as monitor:
        for x, y in batches(6):
            optimizer.zero_grad()
            with torch.autocast("cpu", autocast, enabled=autocast is not None, cache_enabled=False):
                nn.functional.cross_entropy(model(x.to(dtype)), y).backward()
            nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
    expected = Outcome(model, equalizer, monitor)

    tolerance = max(5 * torch.finfo(autocast or dtype).eps, 1e-4)
    assert next(module.network.parameters()).dtype == dtype
    assert sum(sample.slopes for sample in found.history) > 0
    assert min(found.norms) > 2 * CLIP
    for a, b in zip(found.history, expected.history, strict=True):
        assert (a.step, a.slopes, a.neurons) == (b.step, b.slopes, b.neurons)
        assert a.log_sizes == pytest.approx(b.log_sizes, abs=tolerance)
    for (step, layers, _), other in zip(found.measured, expected.measured, strict=True):
        assert step == other[0]
        assert layers == pytest.approx(other[1], rel=tolerance)


def test_an_optimizer_that_calls_its_closure_repeatedly_is_sampled_once_a_step():
    module, callback = module_of(PACKAGES[0]), SigmoidCoreCallback(every=1, monitor_every=3)
    module.configure_optimizers = lambda: torch.optim.LBFGS(module.parameters(), lr=1e-3, max_iter=3)
    trainer_of(PACKAGES[0], callback, steps=4, gradient_clip_val=None).fit(module, batches(4))
    assert [sample.step for sample in callback.equalizer.history] == [0, 1, 2, 3]


class Pair(lightning.LightningModule):
    """Two networks, and an optimizer each, as in adversarial training."""

    def __init__(self):
        super().__init__()
        self.first, self.second = network(), network()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        x, y = batch
        x = x.double()
        for part, optimizer in zip((self.first, self.second), self.optimizers(), strict=True):
            optimizer.zero_grad()
            self.manual_backward(nn.functional.cross_entropy(part(x), y))
            optimizer.step()

    def configure_optimizers(self):
        return adam(self.first), adam(self.second)


def test_two_networks_with_an_optimizer_each_have_a_callback_each(tmp_path):
    module = Pair()
    parts = [SigmoidCoreCallback(every=1, monitor_every=3, module=name) for name in ("first", "second")]
    trainer = trainer_of(PACKAGES[0], *parts, steps=2 * STEPS, gradient_clip_val=None)
    trainer.fit(module, batches())
    expected = plain(clip=None)
    for model, callback in zip((module.first, module.second), parts, strict=True):
        Outcome(model, callback.equalizer, callback.monitor).assert_same(expected)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    saved = torch.load(tmp_path / "last.ckpt", weights_only=False)["callbacks"]
    assert [saved[callback.state_key]["equalizer"]["step"] for callback in parts] == [STEPS, STEPS]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "2 of 2 optimizers have parameters of the module: choose one by optimizer=.* module="),
        ({"optimizer": 2}, "optimizer=2, but there are 2"),
        ({"module": "third"}, "module='third' is not a submodule of Pair"),
    ],
)
def test_an_ambiguous_optimizer_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        trainer_of(PACKAGES[0], SigmoidCoreCallback(**options), gradient_clip_val=None).fit(Pair(), batches())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "a"}, "optimizer must be an index in configure_optimizers, .* got 'a'"),
        ({"optimizer": -1}, "optimizer must be an index in configure_optimizers, from 0, or None, got -1"),
        ({"module": 3}, "module must be the name of a submodule, .* got 3"),
        ({"tolerance": 0.5}, "tolerance must be a factor above 1"),
        ({"monitor_every": 0}, "monitor_every must be a number of steps"),
    ],
)
def test_an_invalid_argument_is_refused_before_the_training(options, message):
    with pytest.raises(ValueError, match=message):
        SigmoidCoreCallback(**options)


def test_the_chosen_optimizer_is_sampled():
    module, callback = Pair(), SigmoidCoreCallback(every=1, monitor_every=None, optimizer=1)
    trainer_of(PACKAGES[0], callback, steps=2 * STEPS, gradient_clip_val=None).fit(module, batches())
    assert [sample.step for sample in callback.equalizer.history][-3:] == [STEPS - 3, STEPS - 2, STEPS - 1]
    assert len(callback.equalizer.history[0].log_sizes) == 2 * len(cores(module.first))
    assert callback.monitor is None


class Plain(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))

    def training_step(self, batch, batch_idx):
        if batch_idx == self.fails_at:
            raise RuntimeError("broken")
        return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    fails_at = None

    def configure_optimizers(self):
        return adam(self)


def test_a_network_without_cores_is_monitored_or_an_error_says_how():
    with pytest.raises(ValueError, match=r"no cores, only Linear, ReLU.*or give every=None, to monitor only"):
        trainer_of(PACKAGES[0], SigmoidCoreCallback()).fit(Plain(), batches())
    callback = SigmoidCoreCallback(every=None, monitor_every=2)
    trainer_of(PACKAGES[0], callback, steps=4).fit(Plain(), batches(4))
    assert [m.step for m in callback.monitor.measurements] == [0, 2]


def test_an_error_during_training_detaches_the_callback():
    callback, module = SigmoidCoreCallback(every=None, monitor_every=1), Plain()
    module.fails_at = 3
    with pytest.raises(RuntimeError, match="broken"):
        trainer_of(PACKAGES[0], callback).fit(module, batches())
    assert [m.step for m in callback.monitor.measurements] == [0, 1, 2]
    assert_detached(callback, module.network, adam(module))


def test_sinks_are_called_with_the_samples_of_both():
    seen = []
    module, callback = module_of(PACKAGES[0]), SigmoidCoreCallback(every=2, monitor_every=3, sinks=[seen.append])
    trainer_of(PACKAGES[0], callback, steps=4).fit(module, batches(4))
    assert sorted((sample.step, type(sample).__name__) for sample in seen) == [
        (0, "Measurement"),
        (0, "Sample"),
        (2, "Sample"),
        (3, "Measurement"),
    ]


def test_a_logger_of_lightning_is_a_writer_of_tensorboard(tmp_path):
    from lightning.pytorch.loggers import TensorBoardLogger
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path)
    callback = SigmoidCoreCallback(every=2, monitor_every=3, sinks=[TensorBoard(logger.experiment)])
    trainer_of(PACKAGES[0], callback, steps=4, logger=logger).fit(module_of(PACKAGES[0]), batches(4))
    logger.finalize("success")
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    assert [event.step for event in events.Scalars("sigmoidcore/equalizer_spread")] == [0, 2]
    assert [event.step for event in events.Images("sigmoidcore/layers")] == [0, 3]


def test_a_compiled_module_is_seen():
    module, callback = module_of(PACKAGES[0]), SigmoidCoreCallback(every=1, monitor_every=3)
    trainer_of(PACKAGES[0], callback).fit(torch.compile(module, backend="eager"), batches())
    outcome(module, callback).assert_same(plain())


# --- two processes ---------------------------------------------------------------------------------------------------


class Joined(lightning.LightningModule):
    """Each rank takes its half of every batch; two of them do what one process does with all of it."""

    def __init__(self):
        super().__init__()
        self.network = network()

    def training_step(self, batch, batch_idx):
        x, y = batch
        half = len(x) // self.trainer.world_size
        rows = slice(half * self.global_rank, half * (self.global_rank + 1))
        return nn.functional.cross_entropy(self.network(x[rows].double()), y[rows])

    def configure_optimizers(self):
        return adam(self)


class Keep(lightning.Callback):
    """Writes the result of a rank to a file, because spawned processes return nothing."""

    def __init__(self, folder, ours):
        self.folder, self.ours = folder, ours

    def on_train_end(self, trainer, pl_module):
        history = [vars(sample) for sample in self.ours.equalizer.history]
        state = {name: tensor.clone() for name, tensor in pl_module.network.state_dict().items()}
        sunk = len(self.ours.sinks[0].samples)
        torch.save({"history": history, "state": state, "sunk": sunk}, self.folder / f"{trainer.global_rank}.pt")


class Gather:
    """A sink that can be pickled."""

    def __init__(self):
        self.samples = []

    def __call__(self, sample):
        self.samples.append(sample)


def fit_joined(folder, **options):
    folder.mkdir()
    callback = SigmoidCoreCallback(every=1, monitor_every=3, sinks=[Gather()])
    options = {"use_distributed_sampler": False} | options
    trainer_of(PACKAGES[0], callback, Keep(folder, callback), **options).fit(Joined(), batches())


def fork(folder):
    """In a process that has no other threads."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    fit_joined(folder, devices=2, strategy="ddp_fork")


def test_two_ranks_make_the_same_changes_as_one_process_with_both_batches(tmp_path):
    fit_joined(tmp_path / "alone")
    process = multiprocessing.get_context("spawn").Process(target=fork, args=(tmp_path / "ranks",))
    process.start()
    process.join()
    assert process.exitcode == 0
    alone, first, second = (
        torch.load(tmp_path / name, weights_only=False) for name in ("alone/0.pt", "ranks/0.pt", "ranks/1.pt")
    )
    assert first["history"] == second["history"]
    for name, tensor in first["state"].items():
        assert torch.equal(tensor, second["state"][name]), name
        torch.testing.assert_close(tensor, alone["state"][name], rtol=1e-6, atol=1e-6)
    assert sum(sample["slopes"] for sample in alone["history"]) > 0
    for one, joined in zip(alone["history"], first["history"], strict=True):
        assert one["log_sizes"] == pytest.approx(joined["log_sizes"], abs=1e-6)
    assert first["sunk"] == alone["sunk"] > 0
    assert second["sunk"] == 0
