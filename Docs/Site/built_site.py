"""Checks the pages that were built: every link, anchor and picture leads to something in the site, and nothing is
loaded from another host.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# Attributes by which a page loads something; `<a href>` loads nothing before somebody clicks.
_LOADED = {
    ("img", "src"),
    ("img", "srcset"),
    ("script", "src"),
    ("link", "href"),
    ("iframe", "src"),
    ("source", "src"),
    ("source", "srcset"),
    ("video", "src"),
    ("audio", "src"),
    ("object", "data"),
    ("embed", "src"),
    ("input", "src"),
    ("use", "href"),
    ("image", "href"),
}
_IN_STYLES = re.compile(r"url\(\s*[\"']?([^\"')]+)|@import\s+[\"']([^\"']+)")


class _Page(HTMLParser):
    """The anchors of a page, where its links lead, and what it loads."""

    def __init__(self) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: set[str] = set()
        self.loads: set[str] = set()
        self._style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self._style = tag == "style"
        self.anchors |= {given[name] for name in ("id", "name") if given.get(name)}
        if tag == "a" and "href" in given:
            self.links.add(given["href"])
        for name, value in given.items():
            if (tag, name) in _LOADED and value:
                self.loads |= {piece.split()[0] for piece in value.split(", ")} if name == "srcset" else {value}
        self.loads |= loaded_by_style(given.get("style", ""))

    def handle_data(self, data: str) -> None:
        if self._style:
            self.loads |= loaded_by_style(data)


def loaded_by_style(text: str) -> set[str]:
    """Addresses that a style sheet loads."""
    return {a or b for a, b in _IN_STYLES.findall(text)}


def read_page(path: Path) -> _Page:
    """A page of the site, read."""
    page = _Page()
    page.feed(path.read_text(encoding="utf-8"))
    page.close()
    return page


def faults(site: Path) -> list[str]:
    """What is wrong with a built site, as one line each.

    Args:
        site: folder of the site. Every HTML page and style sheet below it is looked at.
    """
    site = site.resolve()
    pages = {path: read_page(path) for path in sorted(site.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        for target in sorted(page.links | page.loads):
            problem = _problem(target, target in page.loads, path, site, pages)
            if problem:
                found.append(f"{path.relative_to(site).as_posix()}: {target}: {problem}")
    for path in sorted(site.rglob("*.css")):
        for target in sorted(loaded_by_style(path.read_text(encoding="utf-8"))):
            problem = _problem(target, True, path, site, pages)
            if problem:
                found.append(f"{path.relative_to(site).as_posix()}: {target}: {problem}")
    return found


def _problem(target: str, loaded: bool, path: Path, site: Path, pages: dict[Path, _Page]) -> str:
    try:
        parts = urlsplit(target)
    except ValueError as error:
        return f"no address ({error})"
    if parts.scheme == "data":
        return ""
    if parts.scheme or parts.netloc:
        return "is loaded from another host" if loaded else ""
    name, anchor = unquote(parts.path), unquote(parts.fragment)
    there = (path.parent / name).resolve() if name else path
    if not there.is_relative_to(site):
        return "leads out of the site"
    if there.is_dir():
        there = there / "index.html"
    if not there.is_file():
        return "no such file"
    if anchor and there in pages and anchor not in pages[there].anchors:
        return "no such anchor"
    return ""
