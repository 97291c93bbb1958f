"""The article's algorithm in NumPy, against mpmath and SciPy; and the two pages about the article, run."""

import re
from pathlib import Path

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import least_squares
from scipy.special import expit

from sigmoidcore.article import POINTS_X, POINTS_Y, fit, gradient, sigmoid_core

DOCS = Path(__file__).parents[3] / "docs"
SMALLEST_NORMAL = 2.0**-1022
SMALLEST_DENORMAL = 2.0**-1074


def exact_output(z):
    """1 / (1 + exp(-z)) to 60 digits."""
    with mp.workdps(60):
        return 1 / (1 + mp.exp(-max(mp.mpf(-1e4), min(mp.mpf(1e4), mp.mpf(float(z))))))


def assert_exact(y, x, alpha, shift=0.0):
    """Relative error <= 1e-15 of the z that float64 computes, where the output is a normal number."""
    with np.errstate(over="ignore"):
        z = np.float64(alpha) * (np.float64(x) - np.float64(shift))
    exact = exact_output(z)
    with mp.workdps(60):
        error = abs(mp.mpf(float(y)) - exact)
        allowed = 1e-15 * exact if exact >= SMALLEST_NORMAL else mp.mpf(2 * SMALLEST_DENORMAL)
    assert error <= allowed, f"x={x!r} alpha={alpha!r} shift={shift!r}: {y!r} instead of {mp.nstr(exact, 20)}"


finite = st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=300)
@given(x=finite, alpha=st.floats(min_value=0, exclude_min=True, allow_infinity=False), shift=finite)
def test_output_is_exact_to_1e_15_for_any_finite_inputs(x, alpha, shift):
    assert_exact(sigmoid_core(x, alpha, shift), x, alpha, shift)


def test_output_is_0_from_minus_746_on_and_1_from_37_on():
    assert sigmoid_core([-746.0, -1e4, -1e308], 1.0).tolist() == [0.0, 0.0, 0.0]
    assert sigmoid_core(-745.0, 1.0) == SMALLEST_DENORMAL
    assert sigmoid_core([37.0, 1e4, 1e308], 1.0).tolist() == [1.0, 1.0, 1.0]
    assert sigmoid_core(36.0, 1.0) < 1.0


@pytest.mark.parametrize(
    ("x", "alpha", "shift", "shape"),
    [
        ([1, 2, 3], 1.0, 0.0, (3,)),
        (np.zeros((2, 3), np.float32), [1.0, 2.0, 3.0], 0.0, (2, 3)),
        (1.0, [[1.0], [2.0]], [0.0, 1.0, 2.0], (2, 3)),
        (np.zeros((0, 4)), 1.0, 0.0, (0, 4)),
        (1, 2, 3, ()),
    ],
)
def test_outputs_are_float64_of_the_broadcast_shape(x, alpha, shift, shape):
    y = sigmoid_core(x, alpha, shift)
    assert y.shape == shape
    assert y.dtype == np.float64
    for index in np.ndindex(shape):
        assert_exact(y[index], *(np.broadcast_to(value, shape)[index] for value in (x, alpha, shift)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1.0, 0.0), "alpha must be > 0, got 0.0: to mirror the curve, negate x"),
        ((1.0, [1.0, -0.1]), "alpha must be > 0, got -0.1"),
        ((1.0, np.nan), "alpha must be > 0, got nan"),
        (([1, 2], [1, 2, 3]), "could not be broadcast"),
    ],
)
def test_sigmoid_core_names_the_wrong_value_and_the_remedy(arguments, message):
    with pytest.raises(ValueError, match=message):
        sigmoid_core(*arguments)


def exact_loss(x, y, alpha, shift):
    return (y - 1 / (1 + mp.exp(-alpha * (x - shift)))) ** 2


def exact_gradient(x, y, alpha, shift):
    """(d loss / d alpha, d loss / d shift), differentiated numerically by mpmath."""
    with mp.workdps(50):
        x, y, alpha, shift = (mp.mpf(float(value)) for value in (x, y, alpha, shift))
        return (
            mp.diff(lambda a: exact_loss(x, y, a, shift), alpha),
            mp.diff(lambda m: exact_loss(x, y, alpha, m), shift),
        )


@pytest.mark.parametrize("alpha", [0.1, 1.0, 3.5])
@pytest.mark.parametrize("shift", [-1.5, 0.0, 1.0])
@pytest.mark.parametrize(("x", "y"), [*zip(POINTS_X, POINTS_Y, strict=True), (0.3, -1.0), (20.0, 0.0), (-20.0, 1.0)])
def test_gradient_is_the_derivative_of_the_squared_error(x, y, alpha, shift):
    # y - output cancels where the output is near y; that, times the rest, is the absolute error allowed.
    assert gradient(x, y, alpha, shift) == pytest.approx(
        [float(part) for part in exact_gradient(x, y, alpha, shift)], rel=1e-12, abs=1e-15
    )


def test_gradient_vanishes_without_becoming_nan_at_a_saturated_neuron():
    assert gradient(-1e308, 1.0, 1e308) == (0.0, 0.0)
    tiny = float(mp.exp(-500))
    assert gradient(-500.0, 1.0, 1.0) == pytest.approx((1000 * tiny, 2 * tiny), rel=1e-12, abs=0)
    # Here output is 1.0 in float64, and output * (1 - output) would be 0.
    assert gradient(500.0, 0.0, 1.0) == pytest.approx((1000 * tiny, -2 * tiny), rel=1e-12, abs=0)


def optimum(x, y, start=(1.0, 0.0)):
    """(alpha, shift, mean squared error) that SciPy finds."""
    solved = least_squares(lambda p: expit(p[0] * (x - p[1])) - y, start, xtol=1e-15, ftol=1e-15, gtol=1e-15)
    return *solved.x, float(np.mean(solved.fun**2))


def test_three_epochs_are_the_stochastic_gradient_descent_that_mpmath_computes():
    alpha, shift = mp.mpf(0.1), mp.mpf(0)
    losses = [mp.fsum(exact_loss(*point, alpha, shift) for point in zip(POINTS_X, POINTS_Y, strict=True)) / 6]
    for _ in range(3):
        for x, y in zip(POINTS_X, POINTS_Y, strict=True):
            alpha_part, shift_part = exact_gradient(x, y, alpha, shift)
            alpha, shift = alpha - 0.5 * alpha_part, shift - 0.5 * shift_part
        losses.append(mp.fsum(exact_loss(*point, alpha, shift) for point in zip(POINTS_X, POINTS_Y, strict=True)) / 6)
    fitted = fit(POINTS_X, POINTS_Y, learning_rate=0.5, epochs=3)
    assert (fitted.alpha, fitted.shift) == pytest.approx((float(alpha), float(shift)), rel=1e-12)
    assert fitted.loss == pytest.approx([float(loss) for loss in losses], rel=1e-12)


def test_the_articles_training_lowers_the_loss_in_every_epoch_and_eightyfold_in_all():
    fitted = fit(POINTS_X, POINTS_Y)
    assert fitted.loss.shape == (1001,)
    assert np.all(np.diff(fitted.loss) < 0)
    assert fitted.loss[0] / fitted.loss[-1] > 80
    assert (fitted.alpha, fitted.shift) == pytest.approx((1.323, 0.884), abs=1e-3)


@pytest.fixture(scope="module")
def patient_fit():
    return fit(POINTS_X, POINTS_Y, learning_rate=1.0, epochs=200_000)


def test_the_articles_points_reach_the_optimum_that_scipy_finds_given_enough_epochs(patient_fit):
    alpha, shift, loss = optimum(np.array(POINTS_X), np.array(POINTS_Y))
    assert patient_fit.alpha == pytest.approx(alpha, rel=0.005)
    assert patient_fit.shift == pytest.approx(shift, abs=1e-6)
    assert loss < patient_fit.loss[-1] < 1e-10


def test_fit_starts_from_the_given_slope_and_shift_0_and_zero_epochs_change_nothing():
    fitted = fit([1, 2], [0.2, 0.9], alpha=0.7, epochs=0)
    assert (fitted.start_alpha, fitted.alpha, fitted.shift) == (0.7, 0.7, 0.0)
    assert fitted.loss.tolist() == [pytest.approx(np.mean((expit([0.7, 1.4]) - [0.2, 0.9]) ** 2))]


def test_a_fit_reads_as_a_sentence():
    assert str(fit(POINTS_X, POINTS_Y)) == (
        "y = sigmoid(1.323 (x - 0.8844)), 6 points, 1000 epochs, mean squared error 0.145 -> 0.00173"
    )
    mirrored = fit(-np.array(POINTS_X), 1 - np.array(POINTS_Y), epochs=1000)
    assert "(x + 0.88" in str(mirrored)


def test_falling_points_stop_with_an_error_and_the_mirrored_ones_fit():
    with pytest.raises(ValueError, match=r"alpha must stay positive.*if y falls as x rises, pass -x"):
        fit([5, 3, 1], [0.0, 0.5, 1.0])
    assert fit([-5, -3, -1], [0.0, 0.5, 1.0]).alpha > 0


def test_a_learning_rate_that_is_too_large_stops_with_an_error_that_says_so():
    with pytest.raises(ValueError, match=r"epoch 1, point x=1, y=0\.1: .*Lower learning_rate \(it is 1\)"):
        fit([1, 2], [0.1, 0.9], learning_rate=1)
    assert fit([1, 2], [0.1, 0.9], learning_rate=0.01).alpha > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": [], "y": []}, r"x has shape \(0,\) and y \(0,\): give one output for each x"),
        ({"x": 1, "y": 1}, "in two flat sequences"),
        ({"x": [np.nan]}, "x and y must be finite"),
        ({"alpha": 0}, "alpha and learning_rate must be positive and epochs at least 0, got 0, 0.01 and 1000"),
        ({"learning_rate": -0.1}, "got 0.1, -0.1 and"),
        ({"epochs": -1}, "0.01 and -1"),
        ({"alpha": 1e300, "learning_rate": 1e10}, "shift to -inf"),
    ],
)
def test_fit_names_the_wrong_value_and_the_remedy(arguments, message):
    with pytest.raises(ValueError, match=message):
        fit(**{"x": [0], "y": [1], **arguments})


def printed_sigmoid_core(input_values, alpha):
    """The article's function, as printed in its section 4."""
    output_values = []
    for x in input_values:
        x_prime = alpha * x
        y = 1 / (1 + np.exp(-x_prime))
        output_values.append(y)
    return output_values


def printed_training(input_values, output_values, alpha, epochs, learning_rate=0.01):
    """The article's training loop, as printed, but for `[x]` and `[0]`, without which it does not run."""
    for _ in range(epochs):
        for x, y in zip(input_values, output_values, strict=True):
            y_pred = printed_sigmoid_core([x], alpha)[0]
            gradient = -2 * (y - y_pred)
            x -= learning_rate * gradient  # updates the loop's variable, not the array
            alpha += learning_rate * gradient
    return alpha


@pytest.mark.parametrize("z", [-6.0, 0.0, 4.0])
def test_fault_2_the_printed_gradient_is_the_true_one_without_the_factor_sigma_prime(z):
    y = 0.3
    printed = -2 * (y - printed_sigmoid_core([z], 1.0)[0])
    true = mp.diff(lambda t: exact_loss(t, y, 1, 0), z)
    sigma_prime = mp.diff(lambda t: 1 / (1 + mp.exp(-t)), z)
    assert float(true / printed) == pytest.approx(float(sigma_prime), rel=1e-9)
    assert float(true / printed) <= 0.25


def test_fault_3_one_printed_step_raises_the_loss_at_a_positive_x_and_one_true_step_lowers_it():
    x, y, alpha = 3.0, 0.999, 0.1
    stepped = printed_training([x], [y], alpha, epochs=1)
    assert stepped < alpha
    assert exact_loss(x, y, stepped, 0) > exact_loss(x, y, alpha, 0)
    fitted = fit([x], [y], alpha=alpha, epochs=1)
    assert fitted.alpha > alpha
    assert fitted.loss[1] < fitted.loss[0]


PAGES = ["article.md", "article.zh-CN.md"]


@pytest.mark.parametrize(
    ("page", "words"), [(PAGES[0], "without title, author or address"), (PAGES[1], "没有标题、作者和出处")]
)
def test_the_page_says_that_the_article_came_without_title_author_or_address(page, words):
    assert words in (DOCS / page).read_text(encoding="utf-8")[:1500]


@pytest.mark.parametrize("page", PAGES)
def test_the_table_of_models_on_the_page_has_the_results_of_scipy_and_fit(page, patient_fit):
    x, y = np.array(POINTS_X), np.array(POINTS_Y)
    printed = printed_training(x, y, 0.1, epochs=1000)
    slope_alone = least_squares(lambda p: expit(p[0] * x) - y, [0.1], xtol=1e-15, ftol=1e-15, gtol=1e-15)
    start, article = fit(x, y, epochs=0), fit(x, y)
    computed = [
        (0.1, 0.0, start.loss[0]),
        (printed, None, np.mean((expit(printed * x) - y) ** 2)),
        (slope_alone.x[0], None, np.mean(slope_alone.fun**2)),
        (article.alpha, article.shift, article.loss[-1]),
        (patient_fit.alpha, patient_fit.shift, patient_fit.loss[-1]),
        optimum(x, y),
    ]
    text = (DOCS / page).read_text(encoding="utf-8")
    rows = re.findall(r"(?m)^\|[^|]+\| ([\d.]+) \| ([^|]+) \| ([\d.e-]+) \|$", text)
    assert len(rows) == len(computed)
    for (alpha, shift, loss), expected in zip(rows, computed, strict=True):
        assert float(alpha) == pytest.approx(expected[0], abs=5e-4 if expected[0] < 10 else 5e-3)
        assert float(loss) == pytest.approx(expected[2], rel=0.03)
        if expected[1] is None:
            assert shift in ("none", "无")
        else:
            assert float(shift) == pytest.approx(expected[1], abs=5e-4)
