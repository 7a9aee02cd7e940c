"""Sphinx: MyST pages and numpydoc reference, without a script or font from the network."""

from __future__ import annotations

from importlib.metadata import version as installed_version

from docutils import nodes
from math_core import LatexToMathML
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.writers.html5 import HTML5Translator

import structure_reg

project = "structure-reg"
author = "The structure-reg developers"
copyright = "2026, The structure-reg developers"  # noqa: A001
version = release = installed_version("structure-reg")

extensions = ["myst_parser", "numpydoc", "sphinx.ext.autodoc", "sphinx_copybutton"]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]

autodoc_typehints = "none"  # numpydoc's sections state them
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "exclude-members": "extra_repr"}
numpydoc_show_class_members = False
numpydoc_xref_param_type = False

nitpicky = True
nitpick_ignore = [
    ("py:class", name)
    for name in ("Tensor", "torch.nn.modules.module.Module", "NamedTuple", "typing.NamedTuple")
]

copybutton_prompt_text = r">>> |\.\.\. ?|\$ "
copybutton_prompt_is_regexp = True
copybutton_selector = "div:not(.highlight-diff) > div.highlight > pre"

html_theme = "furo"
html_title = "structure-reg"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"

# Formulae are MathML from the build on, which browsers show without a script.
FORMULA = LatexToMathML(fancy_error=False)


class LinkPublicNames(SphinxTransform):
    """Link `name` in a page's text to the reference: plain code on GitHub, a link on the site."""

    default_priority = 5

    def apply(self) -> None:
        for literal in list(self.document.findall(nodes.literal)):
            name = literal.astext().removesuffix("()")
            linked = isinstance(literal.parent, (nodes.reference, pending_xref))
            if linked or name not in structure_reg.__all__:
                continue
            target = f"structure_reg.{name}"
            link = pending_xref("", refdomain="py", reftype="obj", reftarget=target, refwarn=True)
            literal.replace_self(link)
            link += literal


def visit_math(self: HTML5Translator, node: nodes.math) -> None:
    self.body.append(FORMULA.convert_with_local_state(node.astext(), displaystyle=False))
    raise nodes.SkipNode


def visit_math_block(self: HTML5Translator, node: nodes.math_block) -> None:
    text = node.astext()
    if "&=" in text:  # as Sphinx wraps it for LaTeX
        text = rf"\begin{{aligned}}{text}\end{{aligned}}"
    formula = FORMULA.convert_with_local_state(text, displaystyle=True)
    self.body.append(f'<div class="math">{formula}</div>\n')
    raise nodes.SkipNode


def skip_fields(_app: Sphinx, _what: str, _name: str, member: object, *_: object) -> bool | None:
    """Leave out the fields of a NamedTuple as members: its parameters describe them."""
    return True if "Alias for field" in (member.__doc__ or "") else None


def setup(app: Sphinx) -> None:
    app.connect("autodoc-skip-member", skip_fields)
    app.add_transform(LinkPublicNames)
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
