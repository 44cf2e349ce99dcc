"""Sphinx configuration for `make docs`. The reference pages are generated from the code on each build."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from generated import write_reference

from s3s3 import __version__

project = "s3s3"
author = "the s3s3 contributors"
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"s3s3 {__version__}"
myst_heading_anchors = 3
myst_enable_extensions = ["deflist"]
man_pages = [
    ("reference/commands", "s3s3", "copies named objects between S3-compatible stores, verified", author, 1),
    ("reference/configuration", "s3s3.toml", "what s3s3 copies where", author, 5),
]
autodoc_typehints = "description"
autodoc_preserve_defaults = True  # the value of a default, such as os.environ, may hold secrets of the build
autodoc_member_order = "bysource"
nitpicky = False

write_reference(Path(__file__).parent / "reference")
