"""Builds the documentation site: `python Docs/Site/build_site.py`, or `make docs`, which installs what it needs first.

All links are checked: those of the Markdown pages, those that Sphinx resolves, and those of the pages that come out. A
broken one fails the command, as do a page that the contents (`pages.toml`) do not name, a command or an option in a
code block that the program does not have, and anything that a page would load from another host. Nothing is downloaded.
The site can be opened from the disk; its search works there too.

Links to other hosts are checked for their form and listed in `build/docs/external_links.txt`; `--online` asks the
hosts.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT)]  # the engine of this clone, whatever is installed

from SynthDiffusionLib.errors import BadInput, RunFailed, SynthDiffusionError  # noqa: E402


def build(out: Path, work: Path, online: bool = False) -> int:
    """Builds and checks the site.

    Args:
        out: folder of the site. It is replaced once the new one is complete and sound.
        work: folder for sources and what Sphinx keeps; replaced.
        online: ask other hosts whether what is linked there exists.

    Returns:
        The number of pages.

    Raises:
        BadInput: Sphinx is missing, `out` is something else than a site, or a page has a fault.
        RunFailed: Sphinx failed, or a host does not have what is linked.
    """
    import built_site
    from site_sources import collect

    _check_folder(out)
    missing = [name for name in ("sphinx", "myst_parser", "furo") if find_spec(name) is None]
    if missing:
        hint = 'Run make docs, or: pip install -c constraints.txt ".[docs]"'
        raise BadInput(f"Not installed: {', '.join(missing)}", hint)
    sources, html = work / "sources", work / "html"
    external = collect(sources)
    (work / "external_links.txt").write_text("\n".join([*external, ""]), encoding="utf-8")
    shutil.rmtree(html, ignore_errors=True)
    _sphinx("html", sources, html, work / "doctrees")
    found = built_site.faults(html)
    if found:
        raise BadInput("The site has faults:\n  " + "\n  ".join(found), "Mend the pages that are named there.")
    if online:
        _sphinx("linkcheck", sources, work / "linkcheck", work / "doctrees")
    for unneeded in (".buildinfo", "objects.inv"):
        (html / unneeded).unlink(missing_ok=True)
    shutil.rmtree(html / "_sources", ignore_errors=True)  # empty
    shutil.rmtree(out, ignore_errors=True)
    shutil.move(html, out)
    print(f"{len(external)} links to other hosts, " + ("asked" if online else "checked for form only (--online asks)"))
    return sum(1 for _ in out.rglob("*.html"))


def _check_folder(out: Path) -> None:
    """Refuses to replace a folder that is not a site."""
    if out.exists() and any(out.iterdir()) and not (out / "searchindex.js").is_file():
        raise BadInput(f"'{out}' holds something else than a site", "Choose another folder with --out.")


def _sphinx(builder: str, sources: Path, out: Path, doctrees: Path) -> None:
    """Runs Sphinx in a process of its own; any warning fails it."""
    command = [sys.executable, "-m", "sphinx", "-b", builder, "-W", "--keep-going", "-q", "-E"]
    command += ["-c", str(HERE), "-d", str(doctrees), str(sources), str(out)]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    code = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, check=False).returncode
    if code:
        raise RunFailed(
            f"Sphinx ({builder}) ended with {code}",
            f"What it found wrong is above; '{sources}' mirrors the repository.",
        )


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "site", help="folder of the site (default: site)")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "docs", help="folder for what lies between")
    parser.add_argument("--online", action="store_true", help="ask other hosts whether what is linked there exists")
    options = parser.parse_args(arguments)
    try:
        pages = build(options.out.resolve(), options.work.resolve(), options.online)
    except SynthDiffusionError as error:
        print(f"error: {error.message}\n{error.hint}", file=sys.stderr)
        return error.exit_code
    print(f"{pages} pages in {options.out}; open {options.out / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
