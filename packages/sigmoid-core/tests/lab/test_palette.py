"""The colours of the page: told apart without red, green or blue cones, and readable, in light and in dark."""

import re
from importlib.resources import files

import numpy as np
import pytest

STATIC = files("sigmoidcore.lab").joinpath("static")
SIGHTS = {  # Machado, Oliveira and Fernandes (2009), table 1, severity 1.0; they apply to linear RGB
    "normal": np.eye(3),
    "no red cones": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no green cones": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "no blue cones": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
WHITE = TO_XYZ.sum(1)


def themes():
    """The variables of the style sheet, light and dark."""
    light, dark = re.findall(r":root \{(.*?)\}", STATIC.joinpath("style.css").read_text(), flags=re.DOTALL)[:2]
    read = [dict(re.findall(r"--([\w-]+): (#\w{6})", part)) for part in (light, dark)]
    return {"light": read[0], "dark": read[0] | read[1]}


def linear(colour):
    parts = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def lab(light):
    """CIE L*a*b* of linear RGB; 2.3 is a difference that is just noticed."""
    x, y, z = np.cbrt(TO_XYZ @ light / WHITE)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def difference(one, other, sight):
    seen = [lab(np.clip(np.array(sight) @ linear(colour), 0, 1)) for colour in (one, other)]
    return np.linalg.norm(seen[0] - seen[1])


def contrast(one, other):
    """As the accessibility guidelines (WCAG 2) define it."""
    low, high = sorted(float(TO_XYZ[1] @ linear(colour)) + 0.05 for colour in (one, other))
    return high / low


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("sight", SIGHTS)
def test_networks_and_saturation_are_told_apart(theme, sight):
    colours = themes()[theme]
    for one, other in (("a", "b"), ("shut", "open")):
        assert difference(colours[one], colours[other], SIGHTS[sight]) > 20, (one, other)


@pytest.mark.parametrize("sight", SIGHTS)
def test_two_classes_are_told_apart(sight):
    classes = re.search(r"CLASSES = \[(.*?)\]", STATIC.joinpath("paint.js").read_text())[1]
    first, second = re.findall(r"#\w{6}", classes)[:2]
    assert difference(first, second, SIGHTS[sight]) > 20


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_words_and_lines_stand_out_from_their_ground(theme):
    colours = themes()[theme]
    pairs = [(word, ground) for word in ("ink", "soft") for ground in ("card", "paper")]
    for word, ground in [*pairs, ("a", "card"), ("b", "card"), ("on-main", "main")]:
        assert contrast(colours[word], colours[ground]) >= 4.5, (word, ground)
