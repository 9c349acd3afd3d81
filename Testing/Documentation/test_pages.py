"""The Markdown pages, without Sphinx: links lead somewhere, the contents are complete, what is named exists."""

from __future__ import annotations

import html
import json
import re
import sys
from pathlib import Path

import pytest

from SynthDiffusionLib.cli import build_parser

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "Docs" / "Site"))

import markdown_links  # noqa: E402
import page_commands  # noqa: E402
import site_sources  # noqa: E402

PAGES = site_sources.project_pages()


@pytest.mark.parametrize("page", [*PAGES, site_sources.HOME])
def test_every_link_leads_somewhere(page):
    assert markdown_links.broken(ROOT / page) == []


@pytest.fixture(scope="module")
def parser():
    return build_parser()


def test_every_command_in_a_code_block_is_one_of_the_program(parser):
    found = [fault for page in [*PAGES, site_sources.HOME] for fault in page_commands.faults(ROOT / page, parser)]
    assert found == []
    readme = list(page_commands.commands((ROOT / "README.md").read_text(encoding="utf-8")))
    assert len(readme) > 20 and any("--synthetic-labels" in c.words and "--test-real" in c.words for c in readme)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("    synthdiffusion generate a.nrrd --stpes 5\n", "3: synthdiffusion generate has no option --stpes"),
        ("```\nx\nsynthdiffusion exprot volume\n```\n", "5: synthdiffusion has no command exprot"),
        ("    $ synthdiffusion export nifti\n", "3: synthdiffusion export has no command nifti"),
        ("    synthdiffusion generate a.nrrd \\\n        --model x \\\n        --bogus\n", "3: .* no option --bogus"),
        ("    synthdiffusion generate a [--bogus X]\n", "3: .* no option --bogus"),
        ("    synthdiffusion generate a --bogus=3\n", "3: .* no option --bogus"),
        ("    synthdiffusion generate a --seed 1 && synthdiffusion plan\n    synthdiffusion plna\n", "4: .*plna"),
    ],
)
def test_a_command_that_the_program_does_not_have_is_found(tmp_path, parser, text, problem):
    page = tmp_path / "page.md"
    page.write_text(f"# Page\n\n{text}", encoding="utf-8")
    (found,) = page_commands.faults(page, parser, tmp_path)
    assert re.match(f"page.md:{problem}", found), found


@pytest.mark.parametrize(
    "text",
    [
        "synthdiffusion generate a --bogus\n",  # no code block
        "    synthdiffusion generate a  # --bogus, a patient's\n",
        "    synthdiffusion export dicom|nnunet ...\n",
        "    synthdiffusion plan | grep --bogus\n",
        "    echo synthdiffusion --bogus\n",
        "    synthdiffusion models import FILE... --as ID\n",
    ],
)
def test_what_is_no_command_of_the_program_is_left_alone(tmp_path, parser, text):
    page = tmp_path / "page.md"
    page.write_text(f"# Page\n\n{text}", encoding="utf-8")
    assert page_commands.faults(page, parser, tmp_path) == []


def test_every_page_is_in_the_contents():
    sections = site_sources.contents()
    named = [path for section in sections for path, _ in section.pages]
    generated = {path for path in named if path.startswith("generated/")}
    assert site_sources.problems_of_contents(sections, PAGES, generated) == []
    assert "Docs/TUTORIAL.md" in PAGES and "README.md" in PAGES


def test_what_is_missing_too_much_or_twice_is_named():
    sections = (site_sources.Section("A", (("a.md", ""), ("b.md", ""), ("a.md", ""))),)
    problems = site_sources.problems_of_contents(sections, ["a.md", "new.md"], set())
    assert len(problems) == 3
    assert any("new.md is not in" in p for p in problems)
    assert any("b.md, which does not exist" in p for p in problems)
    assert any("a.md twice" in p for p in problems)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[a](missing.md)", "no such file"),
        ("[a](Other.md)", "no such file"),  # Windows and macOS would find other.md
        ("[a](other.md#no)", "no such heading there"),
        ("[a](#no)", "no such heading on this page"),
        ("![a](b.png)", "no such file"),
        ("[![a](b.png)](other.md)", "no such file"),
        ("see [a\nb](missing.md)", "no such file"),
        ("[a](../outside.md)", "leads out of the repository"),
        ("[a][b]\n\n[b]: missing.md", "no such file"),
        ('<img src="b.png">', "no such file"),
        ("[a](http://a.example)", "not https"),
        ("[a](https://nowhere)", "no name of a host"),
        ("[a]()", "no such heading"),
        ("[a](https://[nowhere.example/b)", "page.md:3: https://[nowhere.example/b: no address"),
        ("<https://[nowhere.example>", "no address"),
    ],
)
def test_a_broken_link_is_found(tmp_path, text, problem):
    (tmp_path / "other.md").write_text("# Other\n", encoding="utf-8")
    page = tmp_path / "page.md"
    page.write_text(f"# Page\n\n{text}\n", encoding="utf-8")
    found = markdown_links.broken(page, tmp_path)
    assert len(found) == 1 and problem in found[0], found


def test_good_links_and_links_in_code_are_left_alone(tmp_path):
    (tmp_path / "a b.md").write_text("# Two Words: `code` & more\n\n# Same\n\n# Same\n", encoding="utf-8")
    page = tmp_path / "page.md"
    page.write_text(
        "# Page\n[1](a%20b.md#two-words-code--more) [2](a%20b.md#same-1) [3](#page) [4](https://a.example/b?c=d#e_f)\n"
        "`[x](missing.md)`\n\n```\n[y](missing.md)\n```\n<!-- [z](missing.md) -->\n",
        encoding="utf-8",
    )
    assert markdown_links.broken(page, tmp_path) == []
    assert len(markdown_links.links(page.read_text(encoding="utf-8"))) == 4


def test_links_are_changed_and_nothing_else():
    text = "[a](x.md) `[b](x.md)` ![c](x.md)\n\n    plain\n"
    assert markdown_links.with_links(text, lambda t: f"up/{t}") == text.replace("(x.md)", "(up/x.md)").replace(
        "`[b](up/x.md)`", "`[b](x.md)`"
    )


EMPHASIS = {  # of the tutorial: bold, and not the name of something on the panel
    "For research only. Synthetic and inpainted images are not for diagnosis or any other clinical use.",
    "The pictures were not taken in 3D Slicer.",
    "Is the nodule there, at its place and in its size?",
    "Bone is too flat",
    "Vessels and texture",
    "Nodules are brighter than real ones",
    "the result is not anonymous",
}


def test_what_the_tutorial_tells_to_click_is_on_the_panel():
    folder = ROOT / "SynthDiffusion"
    files = [p for p in sorted(folder.rglob("*")) if p.suffix in (".py", ".ui")]
    source = html.unescape("\n".join(p.read_text(encoding="utf-8") for p in files)).replace("&", "")
    assert "Add {name}" in source  # "Add nodule", with the name of a class
    text = (ROOT / "Docs" / "TUTORIAL.md").read_text(encoding="utf-8")
    named = {" ".join(name.split()) for name in re.findall(r"\*\*([^*]+)\*\*", text)} - EMPHASIS - {"Add nodule"}
    assert len(named) > 30
    labels = {part.rstrip(".:") for name in named for part in name.split(": ")}
    assert [label for label in sorted(labels) if label not in source] == []


def test_every_test_that_the_security_page_names_exists():
    """Files are named below Testing; a test may stand beside its file or alone."""
    text = (ROOT / "Docs" / "SECURITY.md").read_text(encoding="utf-8")
    files = set(re.findall(r"`((?:Engine|Panels|Scene)/test_\w+\.py)`", text))
    tests = set(re.findall(r"`(test_\w+)`", text))
    assert len(files) > 10 and len(tests) > 15
    assert [name for name in sorted(files) if not (ROOT / "Testing" / name).is_file()] == []
    source = "\n".join((ROOT / "Testing" / name).read_text(encoding="utf-8") for name in sorted(files))
    assert [name for name in sorted(tests) if f"def {name}(" not in source] == []


def test_the_security_page_says_what_the_cards_say_of_membership():
    """Who was trained on is given away where a card says so, and in no other row; the figures are the card's."""
    said = "The synthetic volumes give away who was trained on"
    text = (ROOT / "Docs" / "SECURITY.md").read_text(encoding="utf-8")
    folders = sorted(p.parent for p in (ROOT / "Resources" / "Models").glob("*/model.json"))
    assert folders
    for folder in folders:
        row = next(line for line in text.splitlines() if line.startswith(f"| [`{folder.name}`]"))
        lines = (folder / "MODEL_CARD.md").read_text(encoding="utf-8").splitlines()
        given = [line for line in lines if said in line]
        assert bool(given) == ("given away" in row), folder.name
        assert any("Copying of training cases is not shown" in line for line in lines) == ("| none found |" in row)
        for line in given:
            shown = re.search(r"with an AUC of ([\d.]+).* have ([\d.]+)\.", line).groups()
            assert re.search(r"AUC ([\d.]+) .* have ([\d.]+) \|", row).groups() == shown


def test_the_guide_says_how_many_patients_the_models_have_seen():
    said = re.search(r"have seen (\d+) to (\d+)", (ROOT / "Docs" / "OWN_MODEL.md").read_text(encoding="utf-8")).groups()
    patients = []
    for path in sorted((ROOT / "Resources" / "Models").glob("*/model.json")):
        spec = json.loads(path.read_text(encoding="utf-8"))
        card = Path(path.parent, "MODEL_CARD.md").read_text(encoding="utf-8")
        people = re.search(r"With (\d+) training and", card)
        patients.append(int(people.group(1)) if people else len(spec["training"]["split"]["train"]))
    assert tuple(map(int, said)) == (min(patients), max(patients))
