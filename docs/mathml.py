"""Formulas as MathML, made when the documentation is built: a page needs no script and no network to show them."""

from docutils import nodes
from math_core import LatexError, LatexToMathML
from sphinx.util import logging

logger = logging.getLogger(__name__)
converter = LatexToMathML(fancy_error=False)


def visit_math(translator, node):
    """A formula in a line of text."""
    _write(translator, node, displayed=False)
    raise nodes.SkipNode


def visit_math_block(translator, node):
    """A formula on a line of its own."""
    translator.body.append(translator.starttag(node, "div", CLASS="math-wrapper"))
    _write(translator, node, displayed=True)
    translator.body.append("</div>")
    raise nodes.SkipNode


def _write(translator, node, displayed):
    """Write the formula; one that cannot be converted is a warning, and the build fails."""
    try:
        translator.body.append(converter.convert_with_local_state(node.astext(), displaystyle=displayed))
    except LatexError as error:
        logger.warning("formula %s: %s", node.astext(), error, location=node)


def setup(app):
    """Register the renderer that `html_math_renderer` names."""
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
