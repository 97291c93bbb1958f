"""The Trainer of Hugging Face: the callback records and changes the same as in a plain loop."""

import json

import pytest
import torch
from support.trainings import CLIP, ROWS, STEPS, Classifier, Outcome, adam, assert_detached, cores, plain, samples
from torch.utils.data import SequentialSampler
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainingArguments,
)

import sigmoidcore as sc
from sigmoidcore.integrations.transformers import SigmoidCoreCallback

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("default")]

SAVE = {"steps": 24, "save_strategy": "steps", "save_steps": 8}
RESTORE = {"restore_callback_states_from_checkpoint": True}


class InOrder(Trainer):
    def _get_train_sampler(self, *args):
        return SequentialSampler(self.train_dataset)


def trainer_of(folder, model, *callbacks, steps=STEPS, data=None, **options):
    options = {"max_grad_norm": CLIP, "save_strategy": "no", "per_device_train_batch_size": ROWS} | options
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=steps, lr_scheduler_type="constant", use_cpu=True, report_to=[],
        disable_tqdm=True, logging_strategy="no", dataloader_pin_memory=False, **options,
    )  # fmt: skip
    data = samples(steps) if data is None else data
    return InOrder(model, arguments, train_dataset=data, callbacks=list(callbacks), optimizers=(adam(model), None))


def saved_callbacks(checkpoint):
    return json.loads((checkpoint / "trainer_state.json").read_text())["stateful_callbacks"]


def steps(callback):
    return [sample.step for sample in callback.equalizer.history], [m.step for m in callback.monitor.measurements]


@pytest.fixture
def training(tmp_path):
    """The model, the callback that samples every step, and `outcome`, which trains."""
    model, callback = Classifier(), SigmoidCoreCallback(every=1, monitor_every=3)

    def outcome(change=lambda trainer: None, **options):
        trainer = trainer_of(tmp_path, model, callback, **options)
        change(trainer)
        trainer.train()
        return Outcome(model.network, callback.equalizer, callback.monitor)

    return model, callback, outcome


def test_a_training_is_that_of_a_plain_loop(training):
    model, callback, outcome = training
    outcome().assert_that_of_a_plain_loop()
    assert_detached(model.network, adam(model.network), callback)
    assert callback.diagnosis().history


def test_micro_batches_are_joined(training):
    _, _, outcome = training
    outcome(data=samples(3 * STEPS), gradient_accumulation_steps=3).assert_same(plain(micro=3))


def test_gradients_of_a_scaled_loss_are_unscaled(training):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=4)

    def scale(trainer):  # as fp16=True does, which needs a GPU
        trainer.accelerator.scaler = scaler

    _, _, outcome = training
    outcome(scale, max_grad_norm=0).assert_same(plain(clip=None))
    assert scaler.get_scale() == 2.0**13


def test_a_training_continues_from_a_checkpoint_whose_state_is_one_line(tmp_path):
    def outcome(folder, checkpoint=None, **options):
        model = Classifier()
        trainer = trainer_of(folder, model, SigmoidCoreCallback(monitor_every=5), **SAVE, **options)
        trainer.train(resume_from_checkpoint=checkpoint)
        (callback,) = (c for c in trainer.callback_handler.callbacks if isinstance(c, SigmoidCoreCallback))
        return Outcome(model.network, callback.equalizer, callback.monitor)

    whole = outcome(tmp_path)
    whole.assert_resumable()
    for options in ({}, RESTORE):
        outcome(tmp_path / "again", str(tmp_path / "checkpoint-8"), **options).assert_same(whole)

    checkpoint = tmp_path / "checkpoint-16"
    assert (checkpoint / "trainer_state.json").read_text().count('"saved"') == 1
    state = saved_callbacks(checkpoint)["SigmoidCoreCallback"]
    assert state["args"] == {"tolerance": 2.0, "floor": 0.05, "every": "auto", "monitor_every": 5}
    assert "\n" not in state["attributes"]["saved"]


def test_a_second_training_starts_again(tmp_path):
    callback = SigmoidCoreCallback(every=1, monitor_every=2)
    trainer = trainer_of(tmp_path, Classifier(), callback, steps=3)
    for _ in range(2):
        trainer.train()
        assert steps(callback) == ([0, 1, 2], [0, 2])


def test_a_checkpoint_without_the_callback_can_be_resumed(tmp_path):
    trainer_of(tmp_path, Classifier(), **SAVE).train()
    callback = SigmoidCoreCallback(monitor_every=5)
    trainer_of(tmp_path / "again", Classifier(), callback, **SAVE).train(str(tmp_path / "checkpoint-16"))
    assert [m.step for m in callback.monitor.measurements] == [0, 5]
    assert "SigmoidCoreCallback" in saved_callbacks(tmp_path / "again" / "checkpoint-24")


def test_sinks_that_the_trainer_would_drop_are_an_error(tmp_path):
    options = {"steps": 8, "save_strategy": "steps", "save_steps": 4}
    sunk = []
    trainer_of(
        tmp_path, Classifier(), SigmoidCoreCallback(every=4, monitor_every=4, sinks=[sunk.append]), **options
    ).train()
    assert [sample.step for sample in sunk] == [0, 0, 1, 4, 4]  # the Equalizer sets back in step 1
    trainer = trainer_of(tmp_path, Classifier(), SigmoidCoreCallback(sinks=[sunk.append]), **options, **RESTORE)
    with pytest.raises(ValueError, match="set restore_callback_states_from_checkpoint=False"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
@pytest.mark.parametrize("again", [False, True])
def test_after_an_error_remove_or_the_next_training_detaches_the_callback(error, again, tmp_path):
    class Fails(Classifier):
        calls = 0

        def forward(self, x, labels):
            self.calls += 1
            if self.calls == 3:
                raise error
            return super().forward(x, labels)

    model, callback = Fails(), SigmoidCoreCallback(every=1, monitor_every=1)
    trainer = trainer_of(tmp_path, model, callback, steps=4)
    optimizer = trainer.optimizer
    with pytest.raises(error):
        trainer.train()
    assert steps(callback) == ([0, 1], [0, 1])
    if again:
        trainer.train()
        assert steps(callback) == ([0, 1, 2, 3], [0, 1, 2, 3])
    else:
        callback.remove()
    assert_detached(model.network, optimizer, callback)


def test_two_callbacks_are_an_error(tmp_path):
    trainer = trainer_of(tmp_path, Classifier(), SigmoidCoreCallback(), SigmoidCoreCallback())
    with pytest.raises(ValueError, match="several SigmoidCoreCallbacks: use one"):
        trainer.train()


def tokens(number, length=12, vocabulary=40):
    return torch.randint(0, vocabulary, (number, length), generator=torch.Generator().manual_seed(3))


def test_the_sigmoids_of_a_bert_are_converted_and_watched(tmp_path):
    config = BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=12, hidden_act="sigmoid", num_labels=3,
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    sc.convert(model, include="*.intermediate_act_fn")
    assert len(cores(model)) == 3
    slope = cores(model)[0].alpha.clone()
    callback = SigmoidCoreCallback(every=1, monitor_every=2)
    data = [{"input_ids": ids, "labels": ids[0] % 3} for ids in tokens(4 * ROWS)]
    trainer_of(tmp_path, model, callback, steps=4, data=data).train()
    assert steps(callback) == ([0, 1, 2, 3], [0, 2])
    assert all(len(sample.log_sizes) == 3 for sample in callback.equalizer.history)
    assert torch.equal(cores(model)[0].alpha.cpu(), slope)  # beside a skip connection, slopes follow no profile


def test_a_gpt2_without_cores_is_monitored(tmp_path):
    config = GPT2Config(vocab_size=40, n_positions=12, n_embd=16, n_layer=2, n_head=2)
    data = [{"input_ids": ids, "labels": ids} for ids in tokens(4 * ROWS)]
    callback = SigmoidCoreCallback(monitor_every=2)
    trainer_of(tmp_path, GPT2LMHeadModel(config), callback, steps=4, data=data).train()
    assert callback.equalizer is None
    assert [m.step for m in callback.monitor.measurements] == [0, 2]
    assert sum(layer.role == "attention" for layer in callback.monitor.measurements[0].layers) == config.n_layer
