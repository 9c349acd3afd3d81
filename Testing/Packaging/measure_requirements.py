"""Measures the downloads of Resources/Requirements/engine.txt: `python Testing/Packaging/measure_requirements.py`.

Writes Resources/Requirements/sizes.json, from which the set-up panel says how much is to be fetched before anything is.
pip, as it is set up on this machine, settles for an environment that holds torch and nothing else what engine.txt
needs; all of that is downloaded into a temporary folder, and the files' sizes are written down. Run it with Slicer's
Python, 3.12, after engine.txt has changed and before a release. Other platforms' files differ a little.
"""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
import tempfile
import venv
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / "Resources" / "Requirements"


def torch_version() -> str:
    """The version of torch that constraints.txt pins."""
    return re.search(r"^torch==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.M).group(1)


def environment_with_torch(folder: Path, version: str) -> Path:
    """Makes an environment that is empty but for the metadata of torch, which the PyTorch extension installs.

    Returns:
        its interpreter.
    """
    venv.create(folder, with_pip=False)
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True).stdout.strip()
    metadata = Path(site) / f"torch-{version}.dist-info"
    metadata.mkdir()
    text = f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n"
    (metadata / "METADATA").write_text(text, encoding="utf-8")
    (metadata / "INSTALLER").write_text("pip\n", encoding="utf-8")
    return python


def pip(*arguments: str | Path, python: Path | None = None) -> None:
    """Runs pip, for another environment's interpreter if one is given."""
    target = ["--python", python] if python else []
    subprocess.run([sys.executable, "-m", "pip", "--quiet", *target, *arguments], check=True)


def needed(python: Path, folder: Path) -> dict[str, str]:
    """What pip would fetch for engine.txt: name as the distribution writes it, and version."""
    report = folder / "report.json"
    pip("install", "--dry-run", "--report", report, "-r", REQUIREMENTS / "engine.txt", python=python)
    found = json.loads(report.read_text(encoding="utf-8"))["install"]
    return {entry["metadata"]["name"]: entry["metadata"]["version"] for entry in found}


def download_bytes(name: str, version: str, folder: Path) -> int:
    """Size of the one file that pip fetches for a distribution."""
    pip("download", "--no-deps", "--dest", folder, f"{name}=={version}")
    (file,) = folder.iterdir()
    return file.stat().st_size


def main() -> int:
    """Measures, writes sizes.json, and says what it has found."""
    torch = torch_version()
    packages = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        python = environment_with_torch(folder / "environment", torch)
        for number, (name, version) in enumerate(sorted(needed(python, folder).items(), key=lambda p: p[0].lower())):
            place = folder / str(number)
            place.mkdir()
            packages[name] = {"version": version, "bytes": download_bytes(name, version, place)}
            print(f"{packages[name]['bytes']:>12}  {name} {version}", flush=True)
    measured_with = {
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "torch": torch,
        "date": datetime.now(UTC).date().isoformat(),
    }
    text = json.dumps({"measured_with": measured_with, "packages": packages}, indent=1)
    (REQUIREMENTS / "sizes.json").write_text(text + "\n", encoding="utf-8", newline="\n")
    print(f"{sum(p['bytes'] for p in packages.values()):>12}  {len(packages)} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
