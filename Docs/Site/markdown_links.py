"""Links, images and headings of Markdown pages, and whether a link leads anywhere. Standard library only.

Anchors are those of GitHub's rendering, which Sphinx's Markdown parser makes too, so that one link works on both.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parents[2]

_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})")
_CODE_SPAN = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.S)
_COMMENT = re.compile(r"<!--.*?-->", re.S)
# [text](target), with one level of brackets in the text, as an image within a link has.
_INLINE = re.compile(r"\[(?:[^\[\]]|\[[^\[\]]*\](?:\([^()\s]*\))?)*\]\(\s*<?([^()\s<>]*(?:\([^()\s]*\))?)>?[^()]*\)")
_REFERENCE = re.compile(r"^ {0,3}\[[^\]^]+\]:\s+<?(\S+?)>?\s*$", re.M)
_AUTOLINK = re.compile(r"<(https?://[^\s>]+)>")
_HTML = re.compile(r"<(?:img|a|source)\b[^>]*?\b(?:src|href)\s*=\s*[\"']([^\"']+)[\"']", re.I)


class Link(NamedTuple):
    """A link or an image of a page: where it leads, and its line, from 1."""

    target: str
    line: int


def _blanked(match: re.Match) -> str:
    """As many characters and lines as what matched, so that positions stay."""
    return re.sub(r"[^\n]", " ", match.group(0))


def without_code(text: str) -> str:
    """A page with its code and comments blanked; every other character keeps its position."""
    lines, fence = [], ""
    for line in text.split("\n"):
        mark = _FENCE.match(line)
        if fence:
            if mark and mark.group(1).startswith(fence) and not line.strip().strip(fence[0]):
                fence = ""
            lines.append(" " * len(line))
        elif mark:
            fence = mark.group(1)
            lines.append(" " * len(line))
        else:
            lines.append(line)
    return _CODE_SPAN.sub(_blanked, _COMMENT.sub(_blanked, "\n".join(lines)))


def links(text: str) -> list[Link]:
    """All links and images of a page, in its order."""
    plain = without_code(text)
    found = []
    for pattern in (_INLINE, _REFERENCE, _AUTOLINK, _HTML):
        for match in pattern.finditer(plain):
            found.append((match.start(1), match.group(1)))
            # an image within the text of a link: [![..](picture)](page)
            inner = match.group(0)[1 : match.start(1) - match.start()]
            found += [(match.start() + 1 + m.start(1), m.group(1)) for m in _INLINE.finditer(inner)]
    return [Link(target, plain.count("\n", 0, at) + 1) for at, target in sorted(set(found))]


def with_links(text: str, changed: Callable[[str], str]) -> str:
    """A page in which the target of every inline link is `changed(target)`."""
    plain = without_code(text)
    parts, end = [], 0
    for match in _INLINE.finditer(plain):
        parts += [text[end : match.start(1)], changed(match.group(1))]
        end = match.end(1)
    return "".join([*parts, text[end:]])


def anchors(text: str) -> set[str]:
    """The anchors that a page's headings have, as GitHub makes them, and those that it sets itself."""
    plain = without_code(text)
    counts: dict[str, int] = {}
    found = set(re.findall(r"<a\s+(?:id|name)=[\"']([^\"']+)", plain))
    for number, line in enumerate(plain.split("\n")):
        if not re.match(r" {0,3}#{1,6}\s", line):
            continue
        title = text.split("\n")[number].strip().lstrip("#").strip().rstrip("#").strip()
        title = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", title).replace("`", "")
        slug = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        count = counts.get(slug, 0)
        counts[slug] = count + 1
        found.add(f"{slug}-{count}" if count else slug)
    return found


def is_external(target: str) -> bool:
    """Whether a link leads to another host, or to a mail programme."""
    return bool(re.match(r"[a-z][a-z0-9+.-]+:|//", target, re.I))


def malformed(target: str) -> str:
    """What is wrong with the form of an external link; empty if nothing is."""
    try:
        parts = urlsplit(target)
        host = parts.hostname or ""
    except ValueError as error:  # a bracket that is not closed, say
        return f"no address ({error})"
    if parts.scheme == "mailto":
        return "" if re.fullmatch(r"[^@\s]+@[\w-]+(\.[\w-]+)+", parts.path) else "not an address"
    if parts.scheme != "https":
        return f"not https but {parts.scheme or 'nothing'}"
    if not re.fullmatch(r"[\w-]+(\.[\w-]+)*\.[a-z]{2,}", host, re.I):
        return "no name of a host"
    return "" if re.fullmatch(r"[\w\-./~%:+,;=&?#@()!*']*", target) else "characters that an address cannot have"


def broken(page: Path, root: Path = ROOT) -> list[str]:
    """The links of a page that lead nowhere, as one line each.

    Args:
        page: a Markdown file below `root`.
        root: of the repository. A link out of it leads nowhere.
    """
    text = page.read_text(encoding="utf-8")
    found = []
    for link in links(text):
        problem = (
            malformed(link.target) if is_external(link.target) else _missing(link.target, page.resolve(), text, root)
        )
        if problem:
            found.append(f"{page.relative_to(root).as_posix()}:{link.line}: {link.target or '(empty)'}: {problem}")
    return found


def _missing(target: str, page: Path, text: str, root: Path) -> str:
    name, _, anchor = target.partition("#")
    if not name:
        return "" if anchor in anchors(text) else "no such heading on this page"
    path = (page.parent / unquote(name)).resolve()
    if not path.is_relative_to(root.resolve()):
        return "leads out of the repository"
    if not _exists_as_spelt(path, root.resolve()):
        return "no such file"
    if anchor and path.suffix != ".md":
        return "only Markdown pages have headings"
    return "" if not anchor or anchor in anchors(path.read_text(encoding="utf-8")) else "no such heading there"


def _exists_as_spelt(path: Path, root: Path) -> bool:
    """Whether a path is there in just this spelling: on Windows and macOS another one would do."""
    if not path.exists():
        return False
    return all(part in {p.name for p in parent.iterdir()} for part, parent in _steps(path, root))


def _steps(path: Path, root: Path) -> list[tuple[str, Path]]:
    steps = []
    while path != root:
        steps.append((path.name, path.parent))
        path = path.parent
    return steps
