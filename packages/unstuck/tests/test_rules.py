"""The set of rules, their page, and real networks."""

import functools
import importlib.util
import re
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional
from unstuck_support.layers import chain, residual, rules

import unstuck
from unstuck.diagnosis import judged
from unstuck.findings import Severity
from unstuck.measure.measurement import Measurement
from unstuck.report.text import finding_lines
from unstuck.rules import RULES, find
from unstuck.wording import listed

IDS = [rule.id for rule in RULES]


def test_codes_are_unique_and_sorted_and_refer_to_rules_that_exist():
    assert sorted(set(IDS)) == IDS
    assert all(set(rule.hidden_by) <= set(IDS) - {rule.id} for rule in RULES)


def test_every_rule_has_an_example_in_its_documentation(docs):
    assert list(docs.EXAMPLES) == IDS, "add or remove entries of EXAMPLES in docs/rules.py"


def test_no_measurement_gives_no_finding():
    assert find([]) == ()
    assert find([Measurement((), (), 0)]) == ()


def test_a_level_chain_is_healthy():
    assert find([chain(*[1.0] * 50)]) == ()


def test_errors_come_before_warnings_and_warnings_before_notes():
    broken = chain(1e-9, 1e-5, 1.0, loss_function="cross_entropy", loss_reads=3)
    half_dead = replace(broken.layers[1], kind="ReLU", dead=0.5, rows=100, neurons=10, saturated=None)
    found = find([replace(broken, layers=(broken.layers[0], half_dead, *broken.layers[2:]))])
    assert [(f.rule, f.severity) for f in found] == [("US101", "error"), ("US601", "warning"), ("US202", "note")]


def test_names_are_listed_in_full_as_a_range_or_by_the_first_three():
    assert listed(["a"]) == "`a`"
    assert listed(["a", "b", "c"]) == "`a`, `b` and `c`"
    assert listed(["d", "b", "a", "c"], ["a", "b", "c", "d", "e"]) == "`a` to `d` (4 of 5 layers)"
    assert listed(["e", "a", "b", "c"], ["a", "b", "c", "d", "e"]) == "`e`, `a`, `b` and 1 more"
    assert listed([""]) == "the model itself"


@pytest.fixture(scope="module")
def docs(root):
    """The script that writes docs/rules.md."""
    spec = importlib.util.spec_from_file_location("rules_page", root / "docs" / "rules.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_docs_rules_py_writes(root, docs):
    written = (root / "docs" / "rules.md").read_text(encoding="utf-8")
    assert written == docs.page(), "run .venv/bin/python docs/rules.py"
    assert re.findall(r'^<a id="(us\d+)"></a>$', written, flags=re.MULTILINE) == [i.lower() for i in IDS]


@pytest.fixture(scope="module")
def example_of(docs):
    """The diagnosis of the example of a rule; each is made once."""
    (preamble,) = re.findall(r"```python\n(import torch\n.+?)# \.\.\. an example", docs.page(), flags=re.DOTALL)

    @functools.cache
    def diagnosis(rule):
        scope = {}
        exec(preamble + docs.EXAMPLES[rule], scope)
        return scope.get("diagnosis") or unstuck.diagnose(
            *(scope[n] for n in ("model", "inputs", "targets", "loss_fn"))
        )

    return diagnosis


@pytest.mark.parametrize("rule", RULES, ids=IDS)
def test_the_example_of_a_rule_is_found_by_this_rule_only_in_at_most_three_sentences(rule, example_of):
    diagnosis = example_of(rule.id)
    (finding,) = [f for f in diagnosis.findings if f.severity is not Severity.NOTE or rule.severity is Severity.NOTE]
    assert finding.rule == rule.id
    assert len(re.findall(r"\.(?= |$)", f"{finding.message} {finding.remedy}")) <= 3


@pytest.mark.parametrize("rule", RULES, ids=IDS)
def test_the_finding_of_a_rule_has_no_english_words_in_chinese(rule, example_of, monkeypatch):
    diagnosis = example_of(rule.id)
    monkeypatch.setenv("UNSTUCK_LANG", "zh")
    again = judged(diagnosis.history or [diagnosis.measurement], diagnosis.subject)
    (finding,) = [f for f in again.findings if f.rule == rule.id]
    text = "\n".join(finding_lines(finding, 80))
    prose = re.sub(r"`[^`]*`|\n      .*", "", text)  # without code and the call
    assert re.search("[\u4e00-\u9fff]", prose)
    assert not re.search(r"[a-z]{2,} (of|the|is|are|in|to|and|or|has|have)\b", prose), prose


def mlp(kind, depth, width=64, norm=None):
    sizes = [64, *[width] * depth]
    layers = []
    for fan_in, fan_out in pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), *([norm(fan_out)] if norm else []), kind()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def diagnosed(model, loss=functional.cross_entropy, samples=128, shape=(64,), dtype=torch.float32):
    inputs, targets = torch.randn(samples, *shape, dtype=dtype), torch.randint(10, (samples,))
    return unstuck.diagnose(model.to(dtype), inputs, targets, loss)


def loud(model, **how):
    return [f.rule for f in diagnosed(model, **how).findings if f.severity is not Severity.NOTE]


@pytest.mark.parametrize(
    ("kind", "well", "ill"), [(nn.Sigmoid, 4, 5), (nn.ReLU, 9, 12), (nn.Tanh, 14, 18)], ids=["sigmoid", "ReLU", "tanh"]
)
def test_default_weights_vanish_at_the_documented_depths(kind, well, ill):
    for seed in range(3):
        torch.manual_seed(seed)
        assert loud(mlp(kind, well)) == []
        assert loud(mlp(kind, ill)) == ["US101"]


def test_twenty_layers_with_batch_norm_are_healthy_and_fifty_explode():
    for seed in range(3):
        torch.manual_seed(seed)
        assert loud(mlp(nn.ReLU, 20, norm=nn.BatchNorm1d)) == []
        assert loud(mlp(nn.ReLU, 50, norm=nn.BatchNorm1d)) == ["US102"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_healthy_network_is_healthy_in_every_dtype(dtype):
    assert loud(mlp(nn.ReLU, 3), dtype=dtype) == []


@pytest.mark.parametrize("factor", [1e-8, 1e8])
def test_a_healthy_network_is_healthy_at_any_scale_of_the_loss(factor):
    assert (
        loud(mlp(nn.ReLU, 3), loss=lambda outputs, targets: factor * functional.cross_entropy(outputs, targets)) == []
    )


@pytest.mark.parametrize("samples", [2, 4096])
@pytest.mark.parametrize("kind", [nn.ReLU, nn.Tanh, nn.GELU])
def test_a_healthy_network_is_healthy_with_any_batch(kind, samples):
    assert loud(mlp(kind, 3), samples=samples) == []


def test_a_thousand_residual_blocks_are_judged_at_once():
    """Every block reads all blocks before it: a million edges."""
    assert rules(residual(1.0, blocks=1000)) == []


def test_a_rule_that_fails_ends_no_diagnosis(monkeypatch):
    def fails(evidence):
        raise StopIteration

    broken = tuple(replace(rule, check=fails) if rule.id == "US101" else rule for rule in RULES)
    monkeypatch.setattr("unstuck.rules.table.RULES", broken)
    model = nn.Sequential(*[layer for _ in range(3) for layer in (nn.Linear(8, 8), nn.ReLU())], nn.Linear(8, 1))
    with pytest.warns(RuntimeWarning, match="keeps US101 from judging: please report it .StopIteration"):
        assert unstuck.diagnose(model, torch.randn(64, 8)).healthy
