"""The report of a reader study: one HTML file for people, JSON and CSV of every number.

The files hold no time but the record's, so that the same records give the same bytes with the same library versions.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from SynthDiffusionLib.reports.page import render_page, text_of, write_page


def write_report(result: Mapping[str, Any], out: Path) -> dict[str, Path]:
    """Writes `report.html`, `report.json` and `tables/<table>.csv`, see `reports.page.write_page`.

    Args:
        result: of `analysis.analyse`.
        out: a folder; made if missing.

    Returns:
        paths by "html", "json" and each table's ID.

    Raises:
        MissingExtra: matplotlib is not installed.
        BadInput, RunFailed: the folder cannot be written to.
    """
    return write_page(render(result), result, result["sections"], out, "report")


def render(result: Mapping[str, Any]) -> str:
    """The page. Raises MissingExtra if matplotlib is not installed."""
    study = result["study"]
    software = ", ".join(f"{text_of(name)} {text_of(version)}" for name, version in result["software"].items())
    description = f"<p>{text_of(study['description'])}</p>" if study.get("description") else ""
    heading = f"""<h1>{text_of(study["title"])}</h1>
{description}
<p class="meta">Study {text_of(study["id"])}, built {text_of(study.get("created_utc", ""))}. SHA-256 of the study file:
<code>{text_of(study["sha256"])}</code></p>"""
    footer = f"""<h2>How this was made</h2>
<p>{software}. Intervals are two-sided. Sections labelled exploratory were not the study's primary endpoint: their
p-values are corrected within each table as said there, and suggest rather than prove. Every number in full
is in report.json and tables/*.csv.</p>
<p>For research only. The report supports, and does not claim, compliance with 21 CFR Part 11 or ICH E6.</p>"""
    return render_page(f"{study['title']} - reader study", heading, result["sections"], footer)
