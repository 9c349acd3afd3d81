"""Puts the sources of the site together: the project's pages as they lie in the repository, generated ones, a home page
with the contents, and the pictures and files that they link to.
"""

from __future__ import annotations

import posixpath
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import command_reference
import markdown_links
import page_commands

from SynthDiffusionLib import __version__
from SynthDiffusionLib.cli import build_parser
from SynthDiffusionLib.errors import BadInput

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
HOME = "Docs/Site/home.md"  # becomes the front page
LARGEST_FILE = 1_000_000  # bytes of a file that the site carries along


class Section(NamedTuple):
    """A part of the contents: its title, and (path, title or "") of its pages."""

    title: str
    pages: tuple[tuple[str, str], ...]


def contents(file: Path = HERE / "pages.toml") -> tuple[Section, ...]:
    """The contents of the site, as `pages.toml` has them."""
    data = tomllib.loads(file.read_text(encoding="utf-8"))
    return tuple(
        Section(s["title"], tuple((p, "") if isinstance(p, str) else (p["path"], p["title"]) for p in s["pages"]))
        for s in data["section"]
    )


def project_pages(root: Path = ROOT) -> list[str]:
    """Every Markdown page of the project, whether or not it is in the contents: in a Git checkout what Git tracks and
    new ones that it does not ignore, elsewhere what is there."""
    if (root / ".git").exists():
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", "*.md"]
        listed = subprocess.run(command, cwd=root, capture_output=True, check=True).stdout.decode("utf-8").split("\0")
    else:
        folders = ("Docs", "Resources")
        found = [*root.glob("*.md"), *(p for folder in folders for p in (root / folder).rglob("*.md"))]
        listed = [path.relative_to(root).as_posix() for path in found]
    return sorted(p for p in listed if p and p != HOME and (root / p).is_file())


def problems_of_contents(sections: tuple[Section, ...], pages: list[str], generated: set[str]) -> list[str]:
    """What the contents lack, have too much or have twice, as one line each."""
    named = [path for section in sections for path, _ in section.pages]
    there = set(pages) | generated
    return [
        *(f"{path} is not in Docs/Site/pages.toml: add it where readers look" for path in sorted(there - set(named))),
        *(f"Docs/Site/pages.toml names {path}, which does not exist" for path in named if path not in there),
        *(f"Docs/Site/pages.toml names {path} twice" for path in sorted({p for p in named if named.count(p) > 1})),
    ]


def collect(out: Path, root: Path = ROOT) -> list[str]:
    """Writes all sources of the site.

    Args:
        out: folder to write; what was there goes.
        root: of the repository.

    Returns:
        The external links of all pages, sorted.

    Raises:
        BadInput: the contents do not agree with the pages, a link leads nowhere, a page shows a command that the
            program does not have, or a linked file is too large.
    """
    import model_pages

    generated = model_pages.pages(root)
    parser = build_parser()
    generated[f"{model_pages.FOLDER}/commands.md"] = command_reference.reference(parser, __version__)
    pages = project_pages(root)
    sections = contents()
    problems = problems_of_contents(sections, pages, set(generated))
    for page in [*pages, HOME]:
        problems += markdown_links.broken(root / page, root) + page_commands.faults(root / page, parser, root)
    if problems:
        raise BadInput("The pages are not ready:\n  " + "\n  ".join(problems), "Mend what is named there.")

    shutil.rmtree(out, ignore_errors=True)
    texts = {page: (root / page).read_text(encoding="utf-8") for page in pages} | generated
    home = _moved((root / HOME).read_text(encoding="utf-8"), HOME)
    texts["index.md"] = home + "".join(_toctree(section) for section in sections)
    external: set[str] = set()
    files: set[str] = set()
    for page, text in texts.items():
        external |= {link.target for link in markdown_links.links(text) if markdown_links.is_external(link.target)}
        text = _with_folders_as_pages(text, page, root, files, out)
        path = out / page
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for name in sorted(files):
        _copy(root / name, out / name)
    return sorted(external)


def _moved(text: str, page: str) -> str:
    """The links of a page as they are from the root of the site."""
    folder = posixpath.dirname(page)

    def from_root(target: str) -> str:
        if markdown_links.is_external(target) or target.startswith("#"):
            return target
        return posixpath.normpath(posixpath.join(folder, target))

    return markdown_links.with_links(text, from_root)


def _toctree(section: Section) -> str:
    pages = [(path.removesuffix(".md"), title) for path, title in section.pages]
    lines = [f"{title} <{path}>" if title else path for path, title in pages]
    return "\n".join(["", "```{toctree}", ":hidden:", f":caption: {section.title}", "", *lines, "```", ""])


def _with_folders_as_pages(text: str, page: str, root: Path, files: set[str], out: Path) -> str:
    """A page whose links to folders lead to lists of their files; the files that it links to are added to `files`."""

    def changed(target: str) -> str:
        name, _, anchor = target.partition("#")
        if markdown_links.is_external(target) or not name:
            return target
        path = posixpath.normpath(posixpath.join(posixpath.dirname(page), unquote(name)))
        if (root / path).is_dir():
            _write_list(path, root, files, out)
            return f"{name.rstrip('/')}/files.md"
        if not path.endswith(".md"):
            files.add(path)
        return target

    return markdown_links.with_links(text, changed)


def _write_list(folder: str, root: Path, files: set[str], out: Path) -> None:
    names = sorted(p.name for p in (root / folder).iterdir() if p.is_file())
    files |= {f"{folder}/{name}" for name in names}
    lines = [f"- [{command_reference.plain(name)}]({name})" for name in names]
    path = out / folder / "files.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["---", "orphan: true", "---", f"# Files of {folder}", "", *lines, ""]), encoding="utf-8")


def _copy(source: Path, target: Path) -> None:
    if source.stat().st_size > LARGEST_FILE:
        raise BadInput(
            f"A page links to '{source.name}', which is larger than {LARGEST_FILE:,} bytes",
            "Name the file in the text instead of linking to it.",
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
