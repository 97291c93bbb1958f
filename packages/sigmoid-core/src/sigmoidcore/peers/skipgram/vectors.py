"""Word vectors in the text format of word2vec, which gensim's `KeyedVectors.load_word2vec_format` reads."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from unstuck.files import complete_file


def write_vectors(path: Path, words: Sequence[str], vectors: Tensor) -> Path:
    """Write a file of words and their vectors [words, dimensions], completely or not at all; numbers have six digits.

    Example:
        >>> import tempfile, torch
        >>> path = write_vectors(Path(tempfile.mkdtemp()) / "v.txt", ["is", "so"], torch.tensor([[0.5, 1], [-2, 0]]))
        >>> print(path.read_text().strip())
        2 2
        is 0.5 1
        so -2 0
    """
    rows = vectors.detach().numpy().astype(np.float64).tolist()
    line = " ".join(["%.6g"] * vectors.shape[1])
    with complete_file(path) as file:
        file.write(f"{len(words)} {vectors.shape[1]}\n".encode())
        file.writelines(f"{word} {line % tuple(row)}\n".encode() for word, row in zip(words, rows, strict=True))
    return path
