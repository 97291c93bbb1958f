"""The callback in Hugging Face's Trainer: it sees and does the same as in a plain loop."""

import json

import pytest
import torch
from torch import nn
from torch.utils.data import SequentialSampler
from trainings import CLIP, ROWS, STEPS, Outcome, adam, assert_detached, batch, cores, network, plain
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


class Classifier(nn.Module):
    """What a Trainer takes: it returns its loss."""

    def __init__(self):
        super().__init__()
        self.network = network()

    def forward(self, x, labels):
        outputs = self.network(x)
        return {"loss": nn.functional.cross_entropy(outputs, labels), "logits": outputs}


class InOrder(Trainer):
    def _get_train_sampler(self, *args):
        return SequentialSampler(self.train_dataset)


def samples(steps):
    return [{"x": x.double(), "labels": y} for step in range(steps) for x, y in zip(*batch(step), strict=True)]


def trainer_of(folder, model, *callbacks, steps=STEPS, data=None, **options):
    options = {"max_grad_norm": CLIP, "save_strategy": "no", "per_device_train_batch_size": ROWS} | options
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        lr_scheduler_type="constant",
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        logging_strategy="no",
        dataloader_pin_memory=False,
        **options,
    )
    return InOrder(
        model,
        arguments,
        train_dataset=samples(steps) if data is None else data,
        callbacks=list(callbacks),
        optimizers=(adam(model), None),
    )


def outcome(model, callback):
    return Outcome(model.network, callback.equalizer, callback.monitor)


def test_a_training_equals_a_plain_loop(tmp_path):
    model, callback = Classifier(), SigmoidCoreCallback(every=1, monitor_every=3)
    trainer_of(tmp_path, model, callback).train()
    outcome(model, callback).assert_that_of_a_plain_loop()
    assert callback.diagnosis().history


def test_micro_batches_are_joined(tmp_path):
    model, callback = Classifier(), SigmoidCoreCallback(every=1, monitor_every=3)
    trainer_of(tmp_path, model, callback, data=samples(3 * STEPS), gradient_accumulation_steps=3).train()
    outcome(model, callback).assert_same(plain(micro=3))


def test_gradients_of_a_scaled_loss_are_unscaled(tmp_path):
    model, callback = Classifier(), SigmoidCoreCallback(every=1, monitor_every=3)
    trainer = trainer_of(tmp_path, model, callback, max_grad_norm=0)
    # What fp16=True makes; that needs a GPU.
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=4)
    trainer.train()
    assert trainer.accelerator.scaler.get_scale() == 2.0**13
    outcome(model, callback).assert_same(plain(clip=None))


def resumable(folder, **options):
    callback = SigmoidCoreCallback(monitor_every=5)
    model = Classifier()
    return (
        model,
        callback,
        trainer_of(folder, model, callback, steps=24, save_strategy="steps", save_steps=8, **options),
    )


def test_a_training_resumed_from_a_checkpoint_equals_an_uninterrupted_one(tmp_path):
    model, callback, trainer = resumable(tmp_path)
    trainer.train()
    whole = outcome(model, callback)
    assert sum(sample.slopes for sample in whole.history) > 0
    assert [step for step, *_ in whole.measured] == [0, 5, 10, 15, 20]
    assert len({b.step - a.step for a, b in zip(whole.history, whole.history[1:], strict=False)}) > 1  # the cadence

    for options in ({}, {"restore_callback_states_from_checkpoint": True}):
        model, callback, trainer = resumable(tmp_path / "again", **options)
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))
        (callback,) = (c for c in trainer.callback_handler.callbacks if isinstance(c, SigmoidCoreCallback))
        outcome(model, callback).assert_same(whole)


def test_the_state_is_one_line_of_trainer_state_json(tmp_path):
    _, _, trainer = resumable(tmp_path)
    trainer.train()
    text = (tmp_path / "checkpoint-16" / "trainer_state.json").read_text()
    state = json.loads(text)["stateful_callbacks"]["SigmoidCoreCallback"]
    assert state["args"] == {"tolerance": 2.0, "floor": 0.05, "every": "auto", "monitor_every": 5}
    assert sum('"packed"' in line for line in text.splitlines()) == 1
    again = SigmoidCoreCallback()
    again.packed = state["attributes"]["packed"]
    assert again.state()["attributes"]["packed"] == state["attributes"]["packed"]


def test_a_second_training_begins_anew(tmp_path):
    model, callback = Classifier(), SigmoidCoreCallback(every=1, monitor_every=2)
    trainer = trainer_of(tmp_path, model, callback, steps=3)
    for _ in range(2):
        trainer.train()
        assert [sample.step for sample in callback.equalizer.history] == [0, 1, 2]
        assert [m.step for m in callback.monitor.measurements] == [0, 2]


def test_a_checkpoint_from_before_the_callback_can_be_resumed(tmp_path):
    model = Classifier()
    trainer_of(tmp_path, model, steps=24, save_strategy="steps", save_steps=8).train()
    model, callback, trainer = resumable(tmp_path / "again")
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-16"))
    assert [m.step for m in callback.monitor.measurements] == [0, 5]
    state = json.loads((tmp_path / "again" / "checkpoint-24" / "trainer_state.json").read_text())
    assert "SigmoidCoreCallback" in state["stateful_callbacks"]


@pytest.mark.parametrize("damaged", [lambda text: text[:-40] + text[-36:], lambda text: "x" + text, lambda text: ""])
def test_a_damaged_state_is_an_error_that_names_the_file(damaged, tmp_path):
    callback = SigmoidCoreCallback(every=1, monitor_every=2)
    trainer_of(tmp_path, Classifier(), callback, steps=2, save_strategy="steps", save_steps=2).train()
    path = tmp_path / "checkpoint-2" / "trainer_state.json"
    state = json.loads(path.read_text())
    attributes = state["stateful_callbacks"]["SigmoidCoreCallback"]["attributes"]
    attributes["packed"] = damaged(attributes["packed"])
    path.write_text(json.dumps(state))

    def resume():
        trainer_of(tmp_path, Classifier(), SigmoidCoreCallback(), steps=4).train(str(path.parent))

    with pytest.raises(ValueError, match=r"trainer_state\.json is damaged .*remove \"SigmoidCoreCallback\" from its"):
        resume()
    del state["stateful_callbacks"]["SigmoidCoreCallback"]
    path.write_text(json.dumps(state))
    resume()


def test_an_invalid_argument_is_refused_before_the_training():
    with pytest.raises(ValueError, match="tolerance must be a factor above 1"):
        SigmoidCoreCallback(tolerance=0.5)
    with pytest.raises(TypeError, match="sinks must be a list"):
        SigmoidCoreCallback(sinks=print)


def test_lost_sinks_are_an_error(tmp_path):
    for resume, options in ((None, {}), (True, {"restore_callback_states_from_checkpoint": True})):
        callback = SigmoidCoreCallback(every=4, monitor_every=4, sinks=[(seen := []).append])
        trainer = trainer_of(tmp_path, Classifier(), callback, steps=8, save_strategy="steps", save_steps=4, **options)
        if resume is None:
            trainer.train()
            assert [sample.step for sample in seen] == [0, 0, 4, 4]
            (tmp_path / "checkpoint-8").rename(tmp_path / "last")
        else:
            with pytest.raises(ValueError, match="set restore_callback_states_from_checkpoint=False"):
                trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_after_an_error_remove_or_the_next_training_detaches_the_callback(error, tmp_path):
    class Fails(Classifier):
        calls = 0

        def forward(self, x, labels):
            self.calls += 1
            if self.calls == 3:
                raise error
            return super().forward(x, labels)

    model, callback = Fails(), SigmoidCoreCallback(every=1, monitor_every=1)
    trainer = trainer_of(tmp_path, model, callback, steps=4)
    with pytest.raises(error):
        trainer.train()
    first = callback.equalizer
    trainer.train()
    assert [sample.step for sample in first.history] == [0, 1]
    assert [m.step for m in callback.monitor.measurements] == [0, 1, 2, 3]
    model.calls = 0
    with pytest.raises(error):
        trainer.train()
    callback.remove()
    assert_detached(callback, model.network, trainer.optimizer)


def test_two_callbacks_are_an_error(tmp_path):
    trainer = trainer_of(tmp_path, Classifier(), SigmoidCoreCallback(), SigmoidCoreCallback())
    with pytest.raises(ValueError, match="several SigmoidCoreCallbacks: use one"):
        trainer.train()


# --- its own models --------------------------------------------------------------------------------------------------


def tokens(number, length=12, vocabulary=40):
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, vocabulary, (number, length), generator=generator)


def test_the_sigmoids_of_a_bert_are_converted_and_equalized(tmp_path):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=12, hidden_act="sigmoid", num_labels=3,
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    sc.convert(model, include="*.intermediate_act_fn")
    assert len(cores(model)) == 3
    cores(model)[0].set_slope(cores(model)[0].alpha * 40)
    callback = SigmoidCoreCallback(every=1, monitor_every=2)
    data = [{"input_ids": ids, "labels": ids[0] % 3} for ids in tokens(4 * ROWS)]
    trainer_of(tmp_path, model, callback, steps=4, data=data).train()
    assert [sample.step for sample in callback.equalizer.history] == [0, 1, 2, 3]
    assert sum(sample.slopes + sample.neurons for sample in callback.equalizer.history) > 0
    assert [m.step for m in callback.monitor.measurements] == [0, 2]


def test_a_gpt2_has_no_cores_and_is_monitored(tmp_path):
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=40, n_positions=12, n_embd=16, n_layer=2, n_head=2)
    data = [{"input_ids": ids, "labels": ids} for ids in tokens(4 * ROWS)]
    with pytest.raises(ValueError, match="or give every=None, to monitor only"):
        trainer_of(tmp_path, GPT2LMHeadModel(config), SigmoidCoreCallback(), steps=4, data=data).train()
    callback = SigmoidCoreCallback(every=None, monitor_every=2)
    trainer_of(tmp_path, GPT2LMHeadModel(config), callback, steps=4, data=data).train()
    first, second = callback.monitor.measurements
    assert (first.step, second.step) == (0, 2)
    assert sum(layer.entropy is not None for layer in first.layers) == config.n_layer
