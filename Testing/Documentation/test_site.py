"""The site: built once where Sphinx is installed (`make docs` installs it), and its check tried on bad pages."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from SynthDiffusionLib.errors import BadInput

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "Docs" / "Site"
sys.path.insert(0, str(SITE))

import build_site  # noqa: E402
import built_site  # noqa: E402
import site_sources  # noqa: E402

sphinx_needed = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("sphinx", "myst_parser", "furo")),
    reason="Sphinx is not installed (make docs)",
)


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ('<a href="missing.html">x</a>', "no such file"),
        ('<a href="#missing">x</a>', "no such anchor"),
        ('<a href="other.html#missing">x</a>', "no such anchor"),
        ('<img src="missing.png">', "no such file"),
        ('<img srcset="missing.png 2x">', "no such file"),
        ('<a href="../outside.html">x</a>', "leads out of the site"),
        ('<script src="https://cdn.example/a.js"></script>', "another host"),
        ('<script src="//cdn.example/a.js"></script>', "another host"),
        ('<link rel="stylesheet" href="https://fonts.example/css">', "another host"),
        ('<p style="background: url(https://a.example/b.png)">', "another host"),
        ('<style>@import "https://a.example/b.css";</style>', "another host"),
        ('<iframe src="https://a.example"></iframe>', "another host"),
        ('<a href="https://[a.example">x</a>', "no address"),
    ],
)
def test_a_fault_of_a_page_is_found(tmp_path, body, problem):
    (tmp_path / "other.html").write_text("<p id=here>", encoding="utf-8")
    (tmp_path / "index.html").write_text(f"<h1>x</h1>{body}", encoding="utf-8")
    found = built_site.faults(tmp_path)
    assert len(found) == 1 and problem in found[0], found


def test_a_sound_page_and_links_that_people_click_have_no_fault(tmp_path):
    (tmp_path / "a b.png").write_bytes(b"x")
    (tmp_path / "index.html").write_text(
        '<p id="here"><a href="#here">x</a><a href="https://a.example">x</a><a href="mailto:a@b.example">x</a>'
        '<img src="a%20b.png"><img src="data:image/png;base64,AA=="><a href="./">x</a>',
        encoding="utf-8",
    )
    assert built_site.faults(tmp_path) == []


def test_a_style_sheet_that_loads_from_elsewhere_is_found(tmp_path):
    (tmp_path / "a.css").write_text("a { src: url('https://fonts.example/a.woff2') }", encoding="utf-8")
    (found,) = built_site.faults(tmp_path)
    assert "another host" in found


def test_a_folder_that_is_no_site_is_not_replaced(tmp_path):
    (tmp_path / "mine.txt").write_text("x", encoding="utf-8")
    with pytest.raises(BadInput, match="something else than a site"):
        build_site.build(tmp_path, tmp_path / "work")
    assert (tmp_path / "mine.txt").is_file()


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The whole site, built as `make docs` does; some ten seconds."""
    folder = tmp_path_factory.mktemp("docs") / "my site"
    command = [sys.executable, str(SITE / "build_site.py"), "--out", str(folder), "--work", str(folder.parent / "work")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    return folder


@sphinx_needed
def test_every_page_is_there_and_sound(site):
    for section in site_sources.contents():
        for path, _ in section.pages:
            assert (site / path).with_suffix(".html").is_file(), path
    assert built_site.faults(site) == []
    assert (site / "index.html").is_file() and (site / "searchindex.js").is_file()


@sphinx_needed
def test_pictures_and_cards_are_on_the_pages(site):
    tutorial = (site / "Docs" / "TUTORIAL.html").read_text(encoding="utf-8")
    source = (ROOT / "Docs" / "TUTORIAL.md").read_text(encoding="utf-8")
    assert tutorial.count("<img") >= len(re.findall(r"!\[", source)) > 10
    assert "layers.svg" in (site / "Docs" / "ARCHITECTURE.html").read_text(encoding="utf-8")
    models = (site / "generated" / "models.html").read_text(encoding="utf-8")
    names = sorted(p.parent.name for p in (ROOT / "Resources" / "Models").glob("*/model.json"))
    assert names and all(f"{name}/MODEL_CARD.html" in models for name in names)
    assert models.count("real_and_synthetic") == len(names)


@sphinx_needed
def test_every_option_has_an_anchor_that_a_link_can_use(site):
    page = built_site.read_page(site / "generated" / "commands.html")
    assert {"synthdiffusion-generate", "synthdiffusion-generate-steps", "synthdiffusion-export-dicom"} <= page.anchors
