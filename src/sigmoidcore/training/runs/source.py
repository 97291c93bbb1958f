"""The data set that a run has learnt from, read again as its options say."""

from collections.abc import Mapping
from typing import Any

from sigmoidcore.training.data import Data, DataError, load


def data_of(options: Mapping[str, Any]) -> Data:
    """The data set that a run with these options has learnt from, split as it was.

    Args:
        options: of the run's config.

    Raises:
        DataError: it is not there any more, cannot be used, or the options are not of a run.
    """
    source, target, drop, kind, test_size, seed = (
        options.get(name, default)
        for name, default in (("data", ""), ("target", []), ("drop", []), ("kind", ""), ("test_size", 0.0), ("seed", 0))
    )
    lists = isinstance(target, list) and isinstance(drop, list)
    numbers = isinstance(test_size, float) and isinstance(seed, int)
    if not lists or not numbers or not all(isinstance(text, str) for text in (source, kind, *target, *drop)):
        raise DataError("the run's config has options about data that are of another type: was it edited?")
    return load(
        source, target=tuple(target), drop=tuple(drop), kind=kind or None, test_size=test_size or None, seed=seed
    )
