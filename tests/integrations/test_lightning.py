"""Lightning's Trainer: the callback records and changes the same as in a plain loop."""

import importlib

import lightning.pytorch as lightning
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from support.trainings import CLIP, STEPS, Outcome, adam, assert_detached, batch, batches, network, plain, sgd
from torch import nn

from sigmoidcore.integrations.lightning import SigmoidCoreCallback

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("default")]

PACKAGES = ["lightning.pytorch", "pytorch_lightning"]


def module_of(package=PACKAGES[0], dtype=torch.float64, optimizer_of=adam, batch_of=None):
    """A LightningModule of a package; `batch_of` replaces the batch, from the step."""

    class Module(importlib.import_module(package).LightningModule):
        def __init__(self):
            super().__init__()
            self.network = network(dtype)

        def training_step(self, batch, batch_idx):
            x, y = batch_of(self.trainer.global_step) if batch_of else batch
            outputs = self.network(x.to(next(self.network.parameters()).dtype))
            return nn.functional.cross_entropy(outputs.to(dtype), y)

        def configure_optimizers(self):
            return optimizer_of(self)

    return Module()


def manual_module():
    """It makes its steps by itself."""
    module = module_of()
    module.automatic_optimization = False

    def training_step(batch, batch_idx):
        optimizer = module.optimizers()
        optimizer.zero_grad()
        module.manual_backward(nn.functional.cross_entropy(module.network(batch[0].double()), batch[1]))
        module.clip_gradients(optimizer, CLIP, "norm")
        optimizer.step()

    module.training_step = training_step
    return module


def fit(module, *callbacks, package=PACKAGES[0], steps=STEPS, data=None, path=None, **options):
    options = {"gradient_clip_val": CLIP, "logger": False, "enable_checkpointing": False} | options
    trainer = importlib.import_module(package).Trainer(
        max_steps=steps,
        callbacks=list(callbacks),
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(module, data or batches(), ckpt_path=path)
    return trainer


def outcome(module, callback):
    return Outcome(module.network, callback.equalizer, callback.monitor)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_training_is_that_of_a_plain_loop(package):
    module, callback = module_of(package), SigmoidCoreCallback(every=1, monitor_every=3)
    trainer = fit(module, callback, package=package)
    outcome(module, callback).assert_that_of_a_plain_loop()
    assert_detached(module.network, trainer.optimizers[0], callback)
    assert callback.diagnosis().history


@pytest.mark.parametrize(
    ("module_of", "options", "micro"),
    [
        pytest.param(module_of, {"accumulate_grad_batches": 3, "data": batches(3 * STEPS)}, 3, id="micro-batches"),
        pytest.param(manual_module, {"gradient_clip_val": None}, 1, id="manual optimization"),
        pytest.param(lambda: torch.compile(module_of(), backend="eager"), {}, 1, id="compiled"),
    ],
)
def test_a_training_of_another_kind_is_that_of_a_plain_loop(module_of, options, micro):
    module, callback = module_of(), SigmoidCoreCallback(every=1, monitor_every=3)
    fit(module, callback, **options)
    outcome(module, callback).assert_same(plain(micro=micro))


@pytest.mark.parametrize("package", PACKAGES)
def test_a_training_continues_from_a_checkpoint_of_lightning(package, tmp_path):
    saver = importlib.import_module(package).callbacks.ModelCheckpoint

    def outcome_of(path=None):
        # Lightning continues with another batch of the epoch: every step has its own.
        module, callback = module_of(package, batch_of=batch), SigmoidCoreCallback(monitor_every=5)
        callbacks = callback, saver(tmp_path, save_top_k=-1, filename="{step}")
        fit(module, *callbacks, package=package, steps=24, data=batches(6), path=path, enable_checkpointing=True)
        return outcome(module, callback)

    whole = outcome_of()
    whole.assert_resumable()
    outcome_of(tmp_path / "step=12.ckpt").assert_same(whole)
    saved = torch.load(tmp_path / "step=12.ckpt", weights_only=False)["callbacks"]["SigmoidCoreCallback{'module': ''}"]
    assert saved["equalizer"]["step"] == saved["monitor"]["step"] == 12


def test_a_second_fit_with_more_steps_continues():
    module, callback = module_of(), SigmoidCoreCallback(every=1, monitor_every=3)
    trainer = fit(module, callback, steps=4, data=batches(4))
    trainer.fit_loop.epoch_loop.max_steps = 8
    trainer.fit(module, batches(4))
    assert [sample.step for sample in callback.equalizer.history] == list(range(8))
    assert [m.step for m in callback.monitor.measurements] == [0, 3, 6]


def test_gradients_of_a_scaled_loss_are_unscaled_and_skipped_steps_are_not_sampled():
    def scaler():
        return torch.amp.GradScaler("cpu", init_scale=2.0**20, growth_interval=4)

    module, callback = module_of(dtype=torch.float32), SigmoidCoreCallback(every=1, monitor_every=3)
    fit(module, callback, plugins=[MixedPrecision("16-mixed", "cpu", scaler())], steps=-1, max_epochs=1)
    found = outcome(module, callback)
    assert 0 < len(found.history) < STEPS
    assert max(found.history[0].log_sizes) < 0
    found.assert_same(plain(dtype=torch.float32, autocast=torch.float16, scaler=scaler()))


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
def test_in_every_precision_a_training_is_that_of_a_plain_loop(precision, dtype, autocast):
    # With SGD: the squares of Adam are 0 in float16.
    module, callback = module_of(dtype=torch.float32, optimizer_of=sgd), SigmoidCoreCallback(every=1, monitor_every=3)
    fit(module, callback, steps=6, precision=precision)
    assert next(module.network.parameters()).dtype == dtype
    expected = plain(steps=6, dtype=dtype, autocast=autocast, optimizer_of=sgd)
    tolerance = max(5 * torch.finfo(autocast or dtype).eps, 1e-4)
    outcome(module, callback).assert_same_records(expected, tolerance, tolerance)


class Pair(lightning.LightningModule):
    """Two networks with an optimizer each, as in adversarial training."""

    def __init__(self):
        super().__init__()
        self.first, self.second = network(), network()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        for part, optimizer in zip((self.first, self.second), self.optimizers(), strict=True):
            optimizer.zero_grad()
            self.manual_backward(nn.functional.cross_entropy(part(batch[0].double()), batch[1]))
            optimizer.step()

    def configure_optimizers(self):
        return adam(self.first), adam(self.second)


def fit_pair(*callbacks):
    module = Pair()
    return module, fit(module, *callbacks, steps=2 * STEPS, gradient_clip_val=None)


def test_each_of_two_networks_has_its_own_callback(tmp_path):
    callbacks = [SigmoidCoreCallback(every=1, monitor_every=3, module=name) for name in ("first", "second")]
    module, trainer = fit_pair(*callbacks)
    expected = plain(clip=None)
    for model, callback in zip((module.first, module.second), callbacks, strict=True):
        Outcome(model, callback.equalizer, callback.monitor).assert_same(expected)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    saved = torch.load(tmp_path / "last.ckpt", weights_only=False)["callbacks"]
    assert [saved[callback.state_key]["equalizer"]["step"] for callback in callbacks] == [STEPS, STEPS]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "2 of 2 optimizers have parameters .*: choose the submodule .* module="),
        ({"module": "third"}, "module='third' is not a submodule"),
    ],
)
def test_an_unclear_optimizer_or_module_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        fit_pair(SigmoidCoreCallback(**options))


class Plain(lightning.LightningModule):
    """A network without cores."""

    def __init__(self, fails_at=None):
        super().__init__()
        self.network, self.fails_at = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)), fails_at

    def training_step(self, batch, batch_idx):
        if batch_idx == self.fails_at:
            raise RuntimeError("broken")
        return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self):
        self.optimizer = adam(self)
        return self.optimizer


def test_a_network_without_cores_is_monitored_without_an_equalizer():
    callback = SigmoidCoreCallback(monitor_every=2)
    fit(Plain(), callback, steps=4)
    assert [m.step for m in callback.monitor.measurements] == [0, 2]
    assert callback.equalizer is None
    with pytest.raises(ValueError, match="no cores, only Linear, ReLU"):
        fit(Plain(), SigmoidCoreCallback(every=10))


def test_an_error_in_the_training_leaves_nothing_attached():
    callback, module = SigmoidCoreCallback(every=None, monitor_every=1), Plain(fails_at=3)
    with pytest.raises(RuntimeError, match="broken"):
        fit(module, callback)
    assert [m.step for m in callback.monitor.measurements] == [0, 1, 2]
    assert_detached(module.network, module.optimizer, callback)
