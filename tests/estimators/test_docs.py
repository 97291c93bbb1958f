"""The code of docs/estimators.md runs, from top to bottom, and does what is said beside it."""

import re

import numpy as np


def test_the_code_of_the_page_runs(root):
    page = (root / "docs" / "estimators.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.+?)^```", page, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == 5
    names = {}
    for block in blocks:
        exec(compile(block, "docs/estimators.md", "exec"), names)
    assert names["accuracy"] > 0.9
    np.testing.assert_allclose(names["probabilities"].sum(1), 1)
    assert list(names["model"].feature_names_in_) == list(names["X"].columns)
    assert names["search"].best_params_["saturation"] in (0.5, 1.0)
    assert names["several"].predict(names["texts"]).shape == (100, 4)
    assert names["three"].predict(names["exercises"]).shape == (20, 3)
    assert names["stream"].n_iter_ == 4
