"""Keeps the file lists and addresses of the CMake files: `python Testing/Packaging/list_files.py [--check]`.

Slicer ships the files that CMakeLists.txt names, and no others, so every file of SynthDiffusion/, SynthDiffusionLib/
and Resources/ must be named there. Run this after adding, moving or removing one: it writes the lists between the lines
"# begin files: ..." and "# end files". It also writes the addresses that the Extensions Index reads as plain text
(icon, screenshots, SynthDiffusion.json), from SYNTHDIFFUSION_ORGANIZATION in the root CMakeLists.txt.

With --check nothing is written; the exit code is 1 if anything would be, and stdout says what. A test does the same.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

_NOT_SHIPPED = {"CMakeLists.txt", ".gitkeep", ".gitignore"}


def shipped_files(root: Path = ROOT) -> list[str]:
    """Files that the extension must ship, as POSIX paths relative to `root`, sorted.

    In a Git checkout: what Git tracks, and new files that it does not ignore. Elsewhere: what is there, without caches.
    """
    folders = ("SynthDiffusion", "SynthDiffusionLib", "Resources")
    if (root / ".git").exists():
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *folders]
        answer = subprocess.run(command, cwd=root, capture_output=True, check=True).stdout
        names = {name for name in answer.decode("utf-8").split("\0") if name and (root / name).is_file()}
    else:
        files = [path for folder in folders for path in (root / folder).rglob("*") if path.is_file()]
        names = {path.relative_to(root).as_posix() for path in files}
        names = {name for name in names if "__pycache__" not in name and not name.endswith((".pyc", ".part"))}
    return sorted(name for name in names if name.rsplit("/", 1)[-1] not in _NOT_SHIPPED)


def expected_lists(root: Path = ROOT) -> dict[tuple[str, str], list[str]]:
    """Content of each marked list: {(CMake file, list's name): paths as the list names them}."""
    files = shipped_files(root)
    module = [name.removeprefix("SynthDiffusion/") for name in files if name.startswith("SynthDiffusion/")]
    others = [name for name in files if not name.startswith("SynthDiffusion/")]
    engine = [name for name in others if name.startswith("SynthDiffusionLib/") and name.endswith(".py")]
    return {
        ("CMakeLists.txt", "SynthDiffusionLib scripts"): engine,
        ("CMakeLists.txt", "SynthDiffusionLib and Resources data"): sorted(set(others) - set(engine)),
        ("SynthDiffusion/CMakeLists.txt", "module scripts"): [name for name in module if name.endswith(".py")],
        ("SynthDiffusion/CMakeLists.txt", "module resources"): [name for name in module if not name.endswith(".py")],
    }


def listed_files(root: Path = ROOT) -> list[str]:
    """Files that the marked lists name now, as POSIX paths relative to `root`: what Slicer's own packaging ships."""
    names = []
    for file in ("CMakeLists.txt", "SynthDiffusion/CMakeLists.txt"):
        folder = file.removesuffix("CMakeLists.txt")
        for body in re.findall(r"# begin files: .+\nset\(\w+\n([^)]*)  \)\n# end files", _read(root / file)):
            names += [folder + entry for entry in body.split()]
    return names


def updated_texts(root: Path = ROOT) -> dict[str, str]:
    """The CMake files and SynthDiffusion.json as they should be: {path relative to `root`: text}."""
    names = ("CMakeLists.txt", "SynthDiffusion/CMakeLists.txt", "SynthDiffusion.json")
    texts = {name: _read(root / name) for name in names}
    for (file, title), entries in expected_lists(root).items():
        for entry in entries:
            if re.search(r'[\s;"()$#\\]', entry):
                raise ValueError(f"CMake cannot take the file name '{entry}' without quoting: rename it")
        pattern = re.compile(rf"(# begin files: {re.escape(title)}\nset\(\w+\n)[^)]*(  \)\n# end files)")
        body = "".join(f"  {entry}\n" for entry in entries)
        texts[file], count = pattern.subn(lambda match, body=body: match[1] + body + match[2], texts[file])
        if count != 1:
            raise ValueError(f"{file} has no list '# begin files: {title}'")
    organization = re.search(r'set\(SYNTHDIFFUSION_ORGANIZATION "([^"]+)"\)', texts["CMakeLists.txt"])[1]
    address = re.compile(r"(https://(?:raw\.githubusercontent|github)\.com/)[\w.-]+(/SlicerSynthDiffusion)")
    for name in ("CMakeLists.txt", "SynthDiffusion.json"):
        texts[name] = address.sub(lambda match: match[1] + organization + match[2], texts[name])
    return texts


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, tell what is out of date")
    options = parser.parse_args(arguments)
    stale = {name: text for name, text in updated_texts().items() if _read(ROOT / name) != text}
    for name, text in stale.items():
        print(f"{name}: {'out of date' if options.check else 'rewritten'}")
        if not options.check:
            (ROOT / name).write_text(text, encoding="utf-8", newline="\n")
    return 1 if stale and options.check else 0


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
