"""A small GPT-2 of Hugging Face without LayerNorm: every norm becomes tanh(alpha x), and alpha follows the data.

    python examples/gpt2_without_norms.py
    python examples/gpt2_without_norms.py --keep-norms    # the same training with LayerNorm

It learns the characters of a module of Python's standard library and prints its loss. Needs `transformers`.
"""

import argparse
import inspect

import torch
from transformers import GPT2Config, GPT2LMHeadModel

import sigmoidcore as sc

CONTEXT, BATCH = 64, 16


def main(arguments=None):
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--keep-norms", action="store_true")
    options.add_argument("--steps", type=int, default=300)
    options.add_argument("--layers", type=int, default=6)
    options.add_argument("--rate", type=float, default=0.003)
    options = options.parse_args(arguments)
    torch.manual_seed(0)
    text = inspect.getsource(inspect)
    codes = {character: i for i, character in enumerate(sorted(set(text)))}
    tokens = torch.tensor([codes[character] for character in text])

    def batch(size=BATCH):
        return torch.stack([tokens[i : i + CONTEXT] for i in torch.randint(len(tokens) - CONTEXT, (size,)).tolist()])

    config = GPT2Config(vocab_size=len(codes), n_positions=CONTEXT, n_embd=64, n_layer=options.layers, n_head=4)
    config.bos_token_id = config.eos_token_id = None
    model = GPT2LMHeadModel(config)
    if not options.keep_norms:
        print(sc.convert(model, norms=True))
        print(sc.calibrate(model, {"input_ids": batch(64)}))
    optimizer = torch.optim.AdamW(model.parameters(), options.rate)
    equalizer = None if options.keep_norms else sc.Equalizer(model, optimizer)
    losses = []
    for step in range(options.steps):
        for group in optimizer.param_groups:
            group["lr"] = options.rate * min(1, 2 * (1 - step / options.steps))
        inputs = batch()
        loss = model(input_ids=inputs, labels=inputs).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    changes = 0 if equalizer is None else sum(sample.norms for sample in equalizer.history)
    print(f"loss of the last tenth: {sum(losses[-options.steps // 10 :]) / (options.steps // 10):.3f}")
    print(f"changes of alpha: {changes}")
    return model, losses


if __name__ == "__main__":
    main()
