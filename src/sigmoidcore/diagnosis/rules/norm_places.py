"""Places of norms, tanh(alpha x) weight + bias: Dynamic Tanhs and bounded norms whose alpha is too small."""

from sigmoidcore._language import _
from sigmoidcore.diagnosis.rules.evidence import Evidence
from sigmoidcore.diagnosis.rules.rule import Found
from sigmoidcore.diagnosis.wording import named, number

USUAL_LEVEL, SMALL_LEVEL = 0.5, 0.05

ENLARGE = "Set alpha to 0.5 over the size of what it multiplies, or give the embeddings the size 1."


def small_alpha(evidence: Evidence) -> Found | None:
    r"""A Dynamic Tanh, $\tanh(\alpha x) \gamma + \beta$, whose $\alpha$ is too small, passes on too small a signal.

    Named are the places of norms (modules with parameters alpha and weight that call tanh, and bounded norms) where the
    root mean square of $\tanh(\alpha x)$ is above 0 and below `SMALL_LEVEL`, also after $\gamma$, unless $\gamma$ is 0:
    a tenth of $\alpha\,\mathrm{rms}(x) = 0.5$ or less. A weight that makes up for it keeps the rule silent. Too large
    an alpha is SC201.

    *Source.* Zhu et al. (2025, arXiv 2503.10622) need a factor after embeddings of size 0.02, whose
    $\alpha\,\mathrm{rms}(x)$ is 0.01. Digits, six residual blocks, 150 steps of Adam at 1e-3: a loss of 0.14 from 0.5,
    0.26 from 0.1, 0.33 from 0.03 and 0.34 from 0.01.
    """
    found = [(i, layer) for i, layer in enumerate(evidence.layers) if layer.norm_gain]
    small = sorted(
        ((x.rms, i) for i, x in found if 0 < x.rms < SMALL_LEVEL and x.rms * (x.norm_gain or 0.0) < SMALL_LEVEL),
    )
    if not small:
        return None
    level, worst = small[0]
    places = [i for _level, i in small]
    others = ""
    if places[1:]:
        others = _(
            ", and is small in {names}", names=evidence.listed(evidence.names(places[1:]), "activation", "activation")
        )
    text = _(
        "alpha x has the size {level} in {name}, instead of about {usual}{others}: what stands in the place of a norm "
        "passes on a signal that is too small.",
        level=number(level), usual=number(USUAL_LEVEL), name=named(evidence.layers[worst].name), others=others,
    )  # fmt: skip
    return Found(evidence.names(places), level, SMALL_LEVEL, text)
