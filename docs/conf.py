"""How the documentation is built: ``sphinx-build -W -b html docs docs/_build/html``."""

from importlib.metadata import version as installed_version

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

project = "shrinkstats"
author = "The shrinkstats developers"
copyright = author
version = release = installed_version("shrinkstats")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "numpydoc"]
exclude_patterns = ["_build", "_templates"]
templates_path = ["_templates"]
nitpicky = True  # a reference to a name that does not exist is an error
nitpick_ignore_regex = [("py:.*", r"torch\..*")]  # resolving these would need the network

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the Parameters sections say what is accepted, in words
numpydoc_show_class_members = False  # autodoc lists them
# Sections known and in order, a summary that ends, no parameter documented that does not exist.
numpydoc_validation_checks = {"GL06", "GL07", "GL08", "SS01", "SS03", "PR02", "PR07", "RT03"}
numpydoc_validation_exclude = {r"\.__\w+__$"}

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["math.css"]
html_title = f"shrinkstats {version}"
html_math_renderer = "mathml"
html_show_copyright = False
html_show_sphinx = False


def inline_math(writer, node):
    writer.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def block_math(writer, node):
    writer.body.append(tex2mathml(node.astext(), as_block=True))
    raise nodes.SkipNode


def skip_tuple_fields(app, what, name, obj, skip, options):
    """A named tuple's fields stand in its docstring; "Alias for field number 0" adds nothing."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def setup(app):
    # Browsers draw MathML themselves: pages need no script and no network.
    app.add_html_math_renderer("mathml", (inline_math, None), (block_math, None))
    app.connect("autodoc-skip-member", skip_tuple_fields)
