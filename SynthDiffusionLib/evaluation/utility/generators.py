"""The generator of an arm: trained on that arm's patients alone, or a package that has seen no others."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.evaluation.utility.parts import write_part
from SynthDiffusionLib.volumes.atomic import atomic_file

if TYPE_CHECKING:
    from SynthDiffusionLib.evaluation.utility.pairs import Data
    from SynthDiffusionLib.evaluation.utility.store import Store
    from SynthDiffusionLib.models import ModelPackage

SEEN = ("train", "validation")
EARLIER = ("autoencoder", "refiner", "denoiser")  # settings of [run] that name folders of earlier stages


def check_subset(package: ModelPackage, patients: Sequence[str], case_patients: Mapping[str, str]) -> dict[str, int]:
    """Refuses a generator that knows more patients than its arm does.

    Args:
        package: the generator.
        patients: those that the arm's segmentation network may see, in training or in choosing.
        case_patients: patient of each case of the data set; a package may list cases or patients.

    Returns:
        how many it was trained on, and how many the arm has.

    Raises:
        BadInput: it has seen others, or does not say whom it has seen.
    """
    seen = {case_patients.get(entry, entry) for part in SEEN for entry in package.spec.training.split.get(part, ())}
    if not seen:
        raise BadInput(
            f"The model '{package.id}' does not say which patients it was trained on, so a leak cannot be ruled out",
            'Add them to "training.split" in its model.json.',
        )
    more = sorted(seen - set(patients))
    if more:
        raise BadInput(
            f"The model '{package.id}' was trained on {len(more)} patients that the arm does not have, first "
            f"'{more[0]}': the arm would gain from images that it is not given",
            "Let the experiment train its own generator, or give the data set that the model was trained on.",
        )
    return {"generator_patients": len(seen), "arm_patients": len(set(patients))}


def own_generator(
    configs: Sequence[Path], data: Data, patients: Sequence[str], store: Store, name: str, seed: int
) -> ModelPackage:
    """The generator of one arm, trained on a copy of the data set that holds its patients and no others.

    Args:
        patients: of the training part.
        store: of the experiment.
        name: of the arm's folder in it.
    """
    from SynthDiffusionLib.models import load_package

    part = write_part(data.folder, patients, store.out / "parts" / name)
    store.check_time()
    folder = train_generator(
        configs,
        part,
        store.out / "generators" / name,
        seed=seed,
        device=store.device,
        on_event=lambda e: store.on_event(e | {"stage": f"generator {name}: {e.get('stage', '')}"}),
    )
    return load_package(str(folder))


def stage_name(config: Path) -> str:
    """`[run] stage` of a training configuration; "model" where the method has no stages."""
    return str(_parsed(config).get("run", {}).get("stage", "model"))


def train_generator(
    configs: Sequence[Path],
    data: Path,
    out: Path,
    *,
    seed: int,
    device: str = "cpu",
    on_event: Callable[[dict], None] = lambda event: None,
) -> Path:
    """Trains a generator on one part of a data set, stage by stage; what is done already is not done again.

    Args:
        configs: TOML files of its stages in order, as for `synthdiffusion train`. Their `data`, `seed` and folders of
            earlier stages are replaced.
        data: the part (`parts.write_part`).
        out: a folder for each stage goes below it.
        seed: of all stages.

    Returns:
        folder of the package that the last stage makes.

    Raises:
        BadInput: a configuration that cannot be used, or that makes no package.
    """
    from SynthDiffusionLib.training.train import train

    folders = {stage_name(c): Path(out) / stage_name(c) for c in configs}
    made = Path(out)
    for config in configs:
        stage = stage_name(config)
        folder = folders[stage]
        if (folder / "package" / "model.json").is_file():
            made = folder / "package"
            continue
        if (folder / "summary.json").is_file() and not _parsed(config).get("package"):
            continue
        values = _parsed(config)
        values["run"] = values.get("run", {}) | {"data": str(Path(data).resolve()), "seed": seed}
        for earlier in EARLIER:
            if earlier in values["run"] and earlier in folders:
                values["run"][earlier] = str(folders[earlier].resolve())
        folder.mkdir(parents=True, exist_ok=True)
        own = folder / "config.toml"
        with atomic_file(own) as stream:
            stream.write(toml_text(values).encode("utf-8"))
        made = train(own, folder, resume=(folder / "checkpoint.pt").is_file(), device=device, on_event=on_event)
    if not (made / "model.json").is_file():
        raise BadInput(
            f"'{configs[-1]}' makes no model package, so nothing can be generated", "Give the last stage a [package]."
        )
    return made


def _parsed(config: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(config).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"'{config}' cannot be read: {error}", "Give --generator TOML files of a training.") from error


def toml_text(values: Mapping[str, Any], prefix: str = "") -> str:
    """A TOML document of tables, arrays of tables, numbers, truth values, texts and lists of these."""
    lines, tables = [], []
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            tables.append(f"\n[{name}]\n{toml_text(value, f'{name}.')}")
        elif isinstance(value, list) and value and all(isinstance(v, Mapping) for v in value):
            tables += [f"\n[[{name}]]\n{toml_text(v, f'{name}.')}" for v in value]
        else:
            lines.append(f"{key} = {json.dumps(value, ensure_ascii=False)}\n")
    return "".join(lines + tables)
