"""Ways to copy a module, for tests that hold for all of them."""

import copy
import io
import pickle

import torch


def by_pickle(module):
    return pickle.loads(pickle.dumps(module))


def by_torch_save(module):
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = [copy.deepcopy, by_pickle, by_torch_save]
