"""Has nnU-Net itself check a data set that `synthdiffusion export nnunet` has written.

    python Testing/Benchmarks/check_nnunet_dataset.py DatasetNNN_NAME [--env FOLDER]

Makes a virtual environment of its own at the first call (FOLDER; default: ~/.cache/synthdiffusion-nnunet), in which
nnU-Net is installed without its dependencies, and of these only what its check imports; nothing is installed into the
project's environment. torch is a CPU build wherever pip's settings offer one; the check only imports it. Then runs
`nnunetv2.experiment_planning.verify_dataset_integrity` and, beyond it, what nnU-Net's trainer expects of
splits_final.json. Exit code 0 if all is well. Not part of `make test`: it downloads about 0.4 GB, far more where pip
takes torch for CUDA.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import venv
from pathlib import Path

NNUNET = "nnunetv2==2.8.1"
# What verify_dataset_integrity imports of nnU-Net's dependencies, and what these import.
_NAMES = """
acvl-utils batchgenerators blosc2 filelock fsspec future httpx idna imageio jinja2 lazy-loader markupsafe mpmath msgpack
ndindex networkx nibabel numexpr numpy packaging pandas pillow python-dateutil pytz scikit-image scipy setuptools
simpleitk six sympy tifffile torch==2.13.0 tqdm typing-extensions tzdata
"""
NEEDED = _NAMES.split()
CHECK = """
import sys
from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity
if __name__ == "__main__":
    verify_dataset_integrity(sys.argv[1], num_processes=1)
"""


def environment(folder: Path) -> Path:
    """The Python of the environment, made if missing."""
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    done = folder / "installed.txt"
    wanted = " ".join([NNUNET, *NEEDED])
    if not done.is_file() or done.read_text(encoding="utf-8") != wanted:
        venv.create(folder, with_pip=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", "--no-deps", NNUNET, *NEEDED], check=True)
        done.write_text(wanted, encoding="utf-8")
    return python


def problems_of_splits(folder: Path) -> list[str]:
    """What is wrong with splits_final.json for nnU-Net's trainer, or for a cross-validation."""
    splits = json.loads((folder / "splits_final.json").read_text(encoding="utf-8"))
    cases = {path.name.removesuffix(".nii.gz") for path in (folder / "labelsTr").iterdir()}
    groups = {row["case"]: row["group"] for row in json.loads((folder / "manifest.json").read_text("utf-8"))["volumes"]}
    found = []
    for number, fold in enumerate(splits):
        train, val = set(fold["train"]), set(fold["val"])
        if not train or not val or (train | val) - cases:
            found.append(f"fold {number}: an empty list, or a case that is not in labelsTr")
        if {groups[case] for case in train} & {groups[case] for case in val}:
            found.append(f"fold {number}: a group is trained and validated on")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DatasetNNN_NAME")
    parser.add_argument("--env", type=Path, default=Path.home() / ".cache" / "synthdiffusion-nnunet", metavar="FOLDER")
    args = parser.parse_args()
    if not (args.folder / "dataset.json").is_file():
        parser.error(f"'{args.folder}' is no data set of nnU-Net: it has no dataset.json")
    args.env.mkdir(parents=True, exist_ok=True)
    python = environment(args.env)
    script = args.env / "check.py"  # a file, since nnU-Net starts processes that import it
    script.write_text(CHECK, encoding="utf-8")
    checked = subprocess.run([str(python), str(script), str(args.folder.resolve())], check=False)
    problems = problems_of_splits(args.folder)
    print("\n".join(problems) or "splits_final.json: no group is in both lists of a fold.")
    return 1 if checked.returncode or problems else 0


if __name__ == "__main__":
    sys.exit(main())
