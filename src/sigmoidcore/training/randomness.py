"""The random generators of PyTorch, NumPy and Python: their state as tensors, which a file can hold."""

import random

import numpy as np
import torch
from torch import Tensor


def captured() -> dict[str, Tensor]:
    """The states of all generators: of PyTorch on the CPU and on every CUDA device, of NumPy, and of Python.

    Example:
        >>> before = captured()
        >>> first = torch.rand(3), np.random.rand(), random.random()
        >>> restored(before)
        >>> torch.equal(torch.rand(3), first[0]), np.random.rand() == first[1], random.random() == first[2]
        (True, True, True)
    """
    _, key, position, has_gauss, gauss = np.random.get_state(legacy=True)  # noqa: NPY002  what others draw from
    version, numbers, kept = random.getstate()
    states = {
        "torch": torch.get_rng_state(),
        "numpy": torch.tensor([int(n) for n in key] + [int(position), int(has_gauss)]),
        "numpy.gauss": torch.tensor(float(gauss), dtype=torch.float64),
        "python": torch.tensor([version, *numbers]),
        "python.gauss": torch.tensor([] if kept is None else [kept], dtype=torch.float64),
    }
    if torch.cuda.is_available():
        states |= {f"cuda.{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    return states


def restored(states: dict[str, Tensor]) -> None:
    """Set the generators to `captured()` states; CUDA's only where there are as many devices.

    Raises:
        ValueError: these are no such states.
    """
    try:
        torch.set_rng_state(states["torch"])
        *key, position, has_gauss = states["numpy"].tolist()
        gauss = float(states["numpy.gauss"])
        np.random.set_state(("MT19937", np.array(key, dtype=np.uint32), position, has_gauss, gauss))  # noqa: NPY002
        version, *numbers = states["python"].tolist()
        kept = states["python.gauss"].tolist()
        random.setstate((version, tuple(numbers), kept[0] if kept else None))
        cuda = [state for name, state in states.items() if name.startswith("cuda.")]
        if cuda and torch.cuda.is_available() and torch.cuda.device_count() == len(cuda):
            torch.cuda.set_rng_state_all(cuda)
    except (KeyError, IndexError, TypeError, RuntimeError, OverflowError, ValueError) as error:
        raise ValueError(f"these are no states of random generators: {error}") from error
