"""torch.compile: no graph break, one compilation, and sampled steps that see what an uncompiled training sees."""

import pytest
import torch
from support.compiling import (
    batches,
    fresh_compiler,  # noqa: F401
    in_place,
    loss_function,
    stance,
    train,
    uncompiled,
    whole_model,
)
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters

from sigmoidcore import MLP, Equalizer, calibrate, gradient_profile, prepare

DATA = batches(steps=20, rows=40)


def build():
    torch.manual_seed(1)
    model = MLP(8, 16, 5, 3)
    prepare(model, torch.randn(100, 8))
    model[5].slope.mul_(6.0)  # to follow the profile
    with torch.no_grad():
        model[6].bias[:3] += 12 / model[7].slope[:3]  # to be set back
    return model


def outcome(how, backend, every):
    model = build()
    loss = how(model, backend)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with Equalizer(model, optimizer, every=every) as equalizer:
        train(loss, optimizer, DATA)
    done = [(s.step, s.slopes, s.neurons) for s in equalizer.history]
    assert sum(slopes for _, slopes, _ in done) > 0
    assert sum(neurons for _, _, neurons in done) > 0
    return model.state_dict(), done


def assert_that_of_an_uncompiled_training(found, every):
    expected, samples = outcome(uncompiled, None, every)
    assert found[1] == samples
    for name in expected:
        torch.testing.assert_close(found[0][name], expected[name], rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize(("how", "every"), [(whole_model, "auto"), (in_place, 3), (loss_function, 3)])
def test_training_compiled_is_training_uncompiled_with_one_graph_and_no_break(how, every):
    counter = CompileCounter()
    found = outcome(how, counter, every)
    assert counter.frame_count == 1
    assert not counters["graph_break"]
    assert_that_of_an_uncompiled_training(found, every)


def test_steps_that_are_not_sampled_run_compiled_and_sampled_ones_do_not():
    ran, compiled = [], []

    def backend(graph, _):
        return lambda *args: ran.append(True) or graph.forward(*args)

    def counting(x, y):
        before = len(ran)
        result = loss(x, y)
        compiled.append(len(ran) > before)
        return result

    model = build()
    loss = whole_model(model, backend)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with Equalizer(model, optimizer, every=4) as equalizer:
        train(counting, optimizer, DATA[:9])
    assert [s.step for s in equalizer.history] == [0, 1, 4, 8]  # step 1 sets neurons back
    assert compiled == [False, False, True, True, False, True, True, True, False]


def test_nothing_is_compiled_again_when_slopes_move_where_that_would_be_an_error():
    model = build()
    loss = loss_function(model, "aot_eager")
    loss(*DATA[0]).backward()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with torch.compiler.set_stance("fail_on_recompile"):
        with Equalizer(model, optimizer, every=3) as equalizer:
            train(loss, optimizer, DATA)
        assert stance() == "fail_on_recompile"
    assert sum(s.slopes for s in equalizer.history) > 0


def test_the_compiled_model_may_be_given_to_the_equalizer():
    model = torch.compile(build(), backend="aot_eager", fullgraph=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with Equalizer(model, optimizer, every=2) as equalizer:
        train(uncompiled(model, None), optimizer, DATA[:6])
    assert [s.step for s in equalizer.history] == [0, 1, 2, 4]


def test_the_profile_and_the_calibration_of_a_model_that_has_run_compiled_are_those_of_the_model():
    model = build()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    x, y = DATA[0]
    compiled(x)
    before = gradient_profile(model, x, y, nn.functional.cross_entropy)
    assert torch.equal(gradient_profile(compiled, x, y, nn.functional.cross_entropy).sizes, before.sizes)
    calibrate(compiled, x)
    assert gradient_profile(model, x, y, nn.functional.cross_entropy).spread < before.spread / 2
    torch.testing.assert_close(compiled(x), model(x))
