"""torch.compile: no graph break, one compilation, and sampled steps that see what an uncompiled training sees."""

import pytest
import torch
import torch._dynamo
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters

from sigmoidcore import MLP, Equalizer, calibrate, gradient_profile, prepare

STEPS = 20


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    counters.clear()
    yield
    assert stance() == "default"  # an Equalizer that is gone leaves nothing behind in the compiler
    torch._dynamo.reset()


def stance():
    now = torch.compiler.set_stance("default")
    now.__exit__(None, None, None)
    return now.prev.stance


def build():
    torch.manual_seed(1)
    model = MLP(8, 16, 5, 3)
    prepare(model, torch.randn(100, 8))
    model[5].slope.mul_(6.0)  # for the layer rule
    with torch.no_grad():
        model[6].bias[:3] += 12 / model[7].slope[:3]  # for the neuron rule
    return model


def batches():
    generator = torch.Generator().manual_seed(2)
    return [
        (torch.randn(40, 8, generator=generator), torch.randint(0, 3, (40,), generator=generator)) for _ in range(STEPS)
    ]


def loss_of(model):
    return lambda x, y: nn.functional.cross_entropy(model(x), y)


def uncompiled(model, backend):
    return loss_of(model)


def whole_model(model, backend):
    return loss_of(torch.compile(model, backend=backend, fullgraph=True))


def in_place(model, backend):
    model.compile(backend=backend, fullgraph=True)
    return loss_of(model)


def loss_function(model, backend):
    return torch.compile(loss_of(model), backend=backend, fullgraph=True)


def train(how, backend, every):
    model = build()
    loss_fn = how(model, backend)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with Equalizer(model, optimizer, every=every) as equalizer:
        for x, y in batches():
            optimizer.zero_grad()
            loss_fn(x, y).backward()
            optimizer.step()
    done = [(s.step, s.slopes, s.neurons) for s in equalizer.history]
    assert sum(slopes for _, slopes, _ in done) > 0
    assert sum(neurons for _, _, neurons in done) > 0
    return model.state_dict(), done


def assert_close(a, b):
    for name in b:
        torch.testing.assert_close(a[name], b[name], rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize(("how", "every"), [(whole_model, "auto"), (in_place, 3), (loss_function, 3)])
def test_training_compiled_is_training_uncompiled_with_one_graph_and_no_break(how, every):
    expected, expected_samples = train(uncompiled, None, every)
    counter = CompileCounter()
    state, samples = train(how, counter, every)
    assert counter.frame_count == 1
    assert not counters["graph_break"]
    assert samples == expected_samples
    assert_close(state, expected)


def test_with_compiled_backward_passes_too():
    expected, expected_samples = train(uncompiled, None, 3)
    state, samples = train(whole_model, "aot_eager", 3)
    assert samples == expected_samples
    assert_close(state, expected)


def test_steps_that_are_not_sampled_run_compiled_and_sampled_ones_do_not():
    ran = []

    def backend(graph, _):
        def call(*args):
            ran.append(True)
            return graph.forward(*args)

        return call

    model = build()
    loss_fn = whole_model(model, backend)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    compiled = []
    with Equalizer(model, optimizer, every=4) as equalizer:
        for x, y in batches()[:9]:
            optimizer.zero_grad()
            before = len(ran)
            loss_fn(x, y).backward()
            compiled.append(len(ran) > before)
            optimizer.step()
    assert [s.step for s in equalizer.history] == [0, 4, 8]
    assert compiled == [False, True, True, True, False, True, True, True, False]


def test_nothing_is_compiled_again_when_slopes_move_where_that_would_be_an_error():
    model = build()
    loss_fn = loss_function(model, "aot_eager")
    x, y = batches()[0]
    loss_fn(x, y).backward()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with torch.compiler.set_stance("fail_on_recompile"):
        with Equalizer(model, optimizer, every=3) as equalizer:
            for x, y in batches():
                optimizer.zero_grad()
                loss_fn(x, y).backward()
                optimizer.step()
        assert stance() == "fail_on_recompile"
    assert sum(s.slopes for s in equalizer.history) > 0


def test_the_compiled_model_may_be_given_to_the_equalizer():
    model = torch.compile(build(), backend="aot_eager", fullgraph=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with Equalizer(model, optimizer, every=2) as equalizer:
        for x, y in batches()[:6]:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    assert [s.step for s in equalizer.history] == [0, 2, 4]


def test_the_profile_and_the_calibration_of_a_model_that_has_run_compiled_are_those_of_the_model():
    model = build()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    x, y = batches()[0]
    compiled(x)
    before = gradient_profile(model, x, y, nn.functional.cross_entropy)
    assert torch.equal(gradient_profile(compiled, x, y, nn.functional.cross_entropy).sizes, before.sizes)
    calibrate(compiled, x)
    assert gradient_profile(model, x, y, nn.functional.cross_entropy).spread < before.spread / 2
    torch.testing.assert_close(compiled(x), model(x))


# --- the compiler's stance -------------------------------------------------------------------------------------------


@torch.compile(backend="eager")
def is_compiling():
    return torch.compiler.is_compiling()


def watched():
    model = build()
    return Equalizer(model, torch.optim.SGD(model.parameters(), lr=0.0))


def test_a_stance_that_the_user_sets_while_a_step_is_sampled_is_left_alone():
    equalizer = watched()
    torch.compiler.set_stance("eager_on_recompile")
    equalizer.remove()
    assert stance() == "eager_on_recompile"
    torch.compiler.set_stance("default")
