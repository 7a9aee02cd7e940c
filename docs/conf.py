"""Sphinx: MyST pages, numpydoc reference."""

from importlib.metadata import version as installed_version

project = "structure-reg"
author = "The structure-reg developers"
copyright = "2026, The structure-reg developers"  # noqa: A001
version = release = installed_version("structure-reg")

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
]
myst_enable_extensions = ["amsmath", "colon_fence", "dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]

autodoc_typehints = "none"  # numpydoc's sections state them
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
numpydoc_xref_param_type = False

nitpicky = True
nitpick_ignore = [
    ("py:class", name)
    for name in ("Tensor", "torch.nn.modules.module.Module", "NamedTuple", "typing.NamedTuple")
]

html_theme = "furo"
html_title = "structure-reg"
html_static_path = ["_static"]
html_css_files = ["site.css"]
