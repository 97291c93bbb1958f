# Configuration of Sphinx; see https://www.sphinx-doc.org/en/master/usage/configuration.html
import importlib.metadata
import re
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # mathml.py and offline.py

project = "unstuck and Sigmoid Core"
author = "The Sigmoid Core authors"
project_copyright = author
release = importlib.metadata.version("sigmoid-core")
version = ".".join(release.split(".")[:2])

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "mathml", "offline"]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}
exclude_patterns = ["_build"]

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # notebooks are committed with their output: docs/notebooks.py

# Methods that scikit-learn adds to every estimator.
autodoc_default_options = {
    "members": True,
    "show-inheritance": True,
    "exclude-members": "set_fit_request, set_score_request",
}
autodoc_member_order = "bysource"
# Frameworks of sigmoidcore.integrations, which need not be installed to build the documentation.
autodoc_mock_imports = ["lightning", "pytorch_lightning", "transformers"]
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
# Show public names as users write them.
add_module_names = False
napoleon_google_docstring = True
napoleon_numpy_docstring = False
# Otherwise fields would appear twice: in "Attributes:" and in the class.
napoleon_use_ivar = True

html_theme = "furo"
html_math_renderer = "mathml"
html_static_path = ["static"]
html_css_files = ["math.css"]
pygments_style = "tango"  # both lines of a change are coloured
html_title = "unstuck and Sigmoid Core"
html_show_copyright = False
html_extra_path = ["llms.txt", "diagnosis-schema.json"]


def copy_markdown(app, error):
    """Put the pages that llms.txt lists beside it, as Markdown."""
    if error is None and app.builder.name == "html":
        for page in re.findall(r"\]\((.+?\.md)\)", Path(app.srcdir, "llms.txt").read_text(encoding="utf-8")):
            shutil.copyfile(Path(app.srcdir, page), Path(app.outdir, page))


def setup(app):
    app.connect("build-finished", copy_markdown)
