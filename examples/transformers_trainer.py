"""Train a plain network of 50 layers of sigmoids with the Trainer of Hugging Face.

    python examples/transformers_trainer.py --folder runs/trainer
    torchrun --nproc-per-node 2 examples/transformers_trainer.py --folder runs/trainer

The model is made from a configuration; nothing is downloaded. If the training is killed, start it again by the same
command: it continues from its last checkpoint and ends with the same weights. The state of Equalizer and Monitor is in
the trainer_state.json of the checkpoint. Data: scikit-learn's digits. Extras: `transformers`, `sklearn`.
"""

import argparse
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy
from transformers import PreTrainedConfig, PreTrainedModel, Trainer, TrainingArguments, set_seed

import sigmoidcore as sc
from sigmoidcore.integrations.sinks import CSV
from sigmoidcore.integrations.transformers import SigmoidCoreCallback


class DeepConfig(PreTrainedConfig):
    model_type = "deep-sigmoids"

    def __init__(self, features=64, width=64, depth=50, classes=10, **options):
        self.features, self.width, self.depth, self.classes = features, width, depth, classes
        super().__init__(**options)


class DeepSigmoids(PreTrainedModel):
    config_class = DeepConfig

    def __init__(self, config):
        super().__init__(config)
        self.network = sc.MLP(config.features, config.width, config.depth, config.classes)
        self.post_init()

    def forward(self, x, labels=None):
        logits = self.network(x)
        return {"logits": logits} | ({} if labels is None else {"loss": cross_entropy(logits, labels)})


class RuleTrainer(Trainer):
    """A Trainer whose Adam has the rates for this depth."""

    def create_optimizer(self, *arguments):
        if self.optimizer is None:
            self.optimizer = torch.optim.Adam(sc.depth_scaled_lr(self.model), fused=True)
        return self.optimizer


def accuracy(prediction):
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def main(arguments=None):
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--folder", type=Path, default=Path("runs/transformers-trainer"))
    options.add_argument("--steps", type=int, default=140)
    options.add_argument("--depth", type=int, default=50)
    options.add_argument("--cpu", action="store_true")
    options = options.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)

    set_seed(0)
    digits = load_digits()
    x, y = torch.tensor(digits.data / 8 - 1, dtype=torch.float32), torch.tensor(digits.target)
    rows = [{"x": image, "labels": label} for image, label in zip(x, y, strict=True)]
    model = DeepSigmoids(DeepConfig(depth=options.depth))
    sc.prepare(model.network, x[:400])

    training = TrainingArguments(
        str(options.folder), max_steps=options.steps, per_device_train_batch_size=100, save_steps=10,
        save_total_limit=2, logging_steps=20, report_to=[], use_cpu=options.cpu, ddp_find_unused_parameters=False,
    )  # fmt: skip
    watching = SigmoidCoreCallback(monitor_every=20, sinks=[CSV(options.folder / "samples.csv")])
    trainer = RuleTrainer(
        model, training, train_dataset=rows[:1400], eval_dataset=rows[1400:], compute_metrics=accuracy,
        callbacks=[watching],
    )  # fmt: skip
    # A checkpoint that was being written when the training was killed has no trainer_state.json.
    written = [path.parent for path in options.folder.glob("checkpoint-*/trainer_state.json")]
    last = max(written, key=lambda path: int(path.name.split("-")[1]), default=None)
    trainer.train(resume_from_checkpoint=last and str(last))

    found = trainer.evaluate()["eval_accuracy"]
    if trainer.is_world_process_zero():
        print(f"{found:.1%} of the test images\n{watching.diagnosis()}")
    return model.network, watching.equalizer, watching.monitor


if __name__ == "__main__":
    main()
