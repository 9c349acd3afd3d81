"""The tables of Docs/SCALE.md; see `scale_costs`."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "Docs" / "SCALE.md"
RESULTS = ROOT / "Docs" / "Tables" / "scale.json"


def tables(r):
    return []


def write_page(p, r):
    pass
