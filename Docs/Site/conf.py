"""Configuration of Sphinx for the documentation site. `build_site.py` puts the pages together before; see there."""

import tomllib
from pathlib import Path

import SynthDiffusionLib

_HERE = Path(__file__).resolve().parent

project = "SynthDiffusion"
author = "SynthDiffusion contributors"
release = SynthDiffusionLib.__version__
copyright = author

extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
root_doc = "index"
myst_heading_anchors = 6  # as GitHub has them, so that one link works here and there
myst_enable_extensions = ["deflist"]
smartquotes = False  # "--option" must stay what it is
highlight_language = "none"  # code blocks are commands of many systems
suppress_warnings = ["myst.header"]  # a heading may skip a level, as help texts and cards do

html_theme = "furo"
html_title = "SynthDiffusion"
html_static_path = [str(_HERE / "static")]
html_css_files = ["site.css"]
html_favicon = str(_HERE.parents[1] / "SynthDiffusion" / "Resources" / "Icons" / "SynthDiffusion.png")
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_use_index = False
html_theme_options = {"navigation_with_keys": True}

# `--online` only: addresses that answer people but not programs are no faults of a page.
linkcheck_timeout = 20
linkcheck_retries = 2
linkcheck_anchors = False
linkcheck_ignore = tomllib.loads((_HERE / "pages.toml").read_text(encoding="utf-8")).get("not_checked_online", [])
