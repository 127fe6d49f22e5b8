"""Sphinx, for the site that `make docs` builds from the Markdown pages of the repository."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import sources

import grass_optax

project = "grass_optax"
author = "The grass_optax authors"
copyright = author
version = release = grass_optax.__version__

# The root of the repository is the root of the pages, so that the links between them are those that
# a code host follows.
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.linkcode", "sphinx.ext.napoleon", "pages", "sources"]
root_doc = "docs/index"
include_patterns = ["docs/**.md", "benchmarks/README.md", "README.md", "CHANGELOG.md", "CONTRIBUTING.md"]
exclude_patterns = [".*", "build", "dist", "runs"]

smartquotes = False  # strings stay strings

# Anchors as code hosts make them, up to the deepest heading of a page.
myst_heading_anchors = 4
myst_url_schemes = ["http", "https", "mailto", "source"]  # `source`: see sources.py
suppress_warnings = ["misc.highlighting_failure"]  # sketches such as `f(..., x)` in docstrings

nb_execution_mode = "cache"
nb_execution_cache_path = str(Path(__file__).parents[2] / "build" / "notebooks")
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True

default_role = "py:obj"
linkcode_resolve = sources.of_object
autodoc_preserve_defaults = True
napoleon_use_ivar = True
napoleon_use_param = False  # b1, b2 and eps in one line, as they are written
napoleon_attr_annotations = False  # shapes are no reStructuredText
napoleon_use_rtype = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80

html_theme = "furo"
html_title = f"grass_optax {release}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = html_show_sourcelink = html_show_sphinx = False
html_use_index = False
