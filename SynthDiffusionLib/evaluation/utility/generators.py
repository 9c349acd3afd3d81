"""The generator of an arm: trained on that arm's patients alone, or a package that has seen no others."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import shutil
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from SynthDiffusionLib.errors import BadInput
from SynthDiffusionLib.evaluation.utility.parts import write_part
from SynthDiffusionLib.jobs.provenance import sha256_of
from SynthDiffusionLib.reports.sections import counted
from SynthDiffusionLib.training.dataset import description_sha256
from SynthDiffusionLib.training.stages import method_of
from SynthDiffusionLib.volumes.atomic import atomic_file

if TYPE_CHECKING:
    from SynthDiffusionLib.evaluation.utility.pairs import Data
    from SynthDiffusionLib.evaluation.utility.store import Store
    from SynthDiffusionLib.models import ModelPackage

EARLIER = {"autoencoder": "autoencoder", "refiner": "refiner", "denoiser": "diffusion"}  # setting of [run]: its stage
DONE, KEPT = "done.json", ("checkpoint.pt", "package/model.json")  # of a stage that is finished
PHOTOGRAPHS = ("off", "alex", "vgg", "squeeze", "resnet50")  # MONAI's perceptual networks that have seen no patient


def check_subset(
    package: ModelPackage, patients: Sequence[str], validation: Sequence[str], case_patients: Mapping[str, str]
) -> dict[str, int]:
    """Refuses a generator that knows more patients than its arm does.

    Args:
        package: the generator.
        patients: those that the arm's segmentation network is trained on, and the generator may be.
        validation: those of the validation part, which a generator may only have been chosen or logged with.
        case_patients: patient of each case of the data set; a package may list cases or patients.

    Returns:
        how many patients it was trained on ("generator_patients"), and how many the arm is ("arm_patients").

    Raises:
        BadInput: it has seen others, or does not say whom it has seen.
    """
    split = package.spec.training.split
    trained, chosen = (
        {case_patients.get(entry, entry) for entry in split.get(part, ())} for part in ("train", "validation")
    )
    if not trained:
        raise BadInput(
            f"The model '{package.id}' does not say which patients it was trained on, so a leak cannot be ruled out",
            'Add them to "training.split" in its model.json.',
        )
    own = set(patients)
    for seen, allowed, words in ((trained, own, "trained on"), (chosen, own | set(validation), "validated with")):
        more = sorted(seen - allowed)
        if more:
            raise BadInput(
                f"The model '{package.id}' was {words} {counted(len(more), 'patient')} that the arm does not have, "
                f"first '{more[0]}': the arm would gain from images that it is not given",
                "Let the experiment train its own generator, or give the data set that the model was trained on.",
            )
    return {"generator_patients": len(trained), "arm_patients": len(own)}


def check_configs(configs: Sequence[Path]) -> None:
    """Refuses training configurations that would begin with, or build on, weights that the arm does not train itself.

    Every setting of [run] that is a path, but for `data`, names such weights. Those of an earlier stage are replaced by
    the arm's own where that stage is given too, before; of all others nobody knows which patients they have seen.

    Args:
        configs: TOML files of the generator's stages in order.

    Raises:
        BadInput: with the setting, and how to mend it; or two configurations of one stage.
    """
    own: list[str] = []
    for config in configs:
        values, stage = _parsed(config), stage_name(config)
        if stage in own:
            raise BadInput(f"Two configurations are of the stage '{stage}'", "Give --generator one TOML file a stage.")
        for setting in sorted(set(values["run"]) & _weights(method_of(config), config)):
            earlier = EARLIER.get(setting)
            if earlier not in own:
                raise BadInput(
                    f"'{config}' takes weights from elsewhere: [run] {setting}. They may know patients that the arm "
                    "does not have",
                    f"Give --generator the TOML file of the stage {earlier} too, before this one."
                    if earlier is not None
                    else f"Take {setting} out of [run]: an arm's generator is trained from random weights.",
                )
        losses = values.get("losses")
        perceptual = losses.get("perceptual", "off") if isinstance(losses, Mapping) else "off"
        if perceptual not in PHOTOGRAPHS:
            raise BadInput(
                f"'{config}' takes weights from elsewhere: [losses] perceptual = '{perceptual}'. They may know "
                "patients that the arm does not have",
                f"Take one of {', '.join(PHOTOGRAPHS)}: these networks were trained on photographs.",
            )
        own.append(stage)


def _weights(method: str, config: Path) -> set[str]:
    """Settings of [run] that are paths of weights."""
    from SynthDiffusionLib.training.config import TrainConfig
    from SynthDiffusionLib.training.train import STAGED

    if method != "patch_ddpm" and method not in STAGED:
        raise BadInput(
            f"Unknown method '{method}' in [run] of '{config}'", f"Choose one of patch_ddpm, {', '.join(STAGED)}."
        )
    settings: type = TrainConfig
    if method in STAGED:
        settings = importlib.import_module(f"SynthDiffusionLib.training.{method}.config").METHOD.config
    paths = {field.name for field in dataclasses.fields(settings) if "Path" in str(field.type)}
    return paths - {"data", "source"}


def configs_sha256(configs: Sequence[Path]) -> dict[str, str]:
    """Checksum of each stage's settings, for the plan of an experiment; comments, and what an arm replaces, are left
    out."""
    own = {stage_name(config): Path() for config in configs}
    texts = {stage_name(c): json.dumps(_of_arm(c, Path(), 0, own), sort_keys=True, default=str) for c in configs}
    return {stage: hashlib.sha256(text.encode()).hexdigest() for stage, text in texts.items()}


def _of_arm(config: Path, data: Path, seed: int, folders: Mapping[str, Path]) -> dict[str, Any]:
    """A configuration with the arm's own data, seed and folders of earlier stages.

    Args:
        folders: by stage.
    """
    values = _parsed(config)
    earlier = {setting: str(folders[stage]) for setting, stage in EARLIER.items() if setting in values["run"]}
    values["run"] = values["run"] | {"data": str(data), "seed": seed} | earlier
    return values


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
    own = store.out / "generators" / name
    known = _stages(own)
    folder = train_generator(
        configs,
        part,
        own,
        seed=seed,
        device=store.device,
        on_event=lambda e: store.on_event(e | {"stage": f"generator {name}: {e.get('stage', '')}"}),
    )
    if known and known != _stages(own):  # what a stage that was trained anew had made is not of this generator
        shutil.rmtree(store.out / "synthetic" / name, ignore_errors=True)
    return load_package(str(folder))


def _stages(folder: Path) -> dict[str, bytes]:
    """What `_finish` noted of each stage of a generator."""
    return {path.parent.name: path.read_bytes() for path in folder.glob(f"*/{DONE}")}


def stage_name(config: Path) -> str:
    """`[run] stage` of a training configuration; "model" where the method has no stages."""
    return str(_parsed(config)["run"].get("stage", "model"))


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

    A stage that is damaged, or was changed since (by `synthdiffusion train`, on other patients perhaps), is trained
    anew, and so are those that build on it.

    Args:
        configs: TOML files of its stages in order, as for `synthdiffusion train`. Their `data`, `seed` and folders of
            earlier stages are replaced.
        data: the part (`parts.write_part`).
        out: a folder for each stage goes below it.
        seed: of all stages.

    Returns:
        folder of the package that the last stage makes.

    Raises:
        BadInput: a configuration that cannot be used, that takes weights from elsewhere, or that makes no package.
    """
    from SynthDiffusionLib.training.train import train

    check_configs(configs)
    folders = {stage_name(c): (Path(out) / stage_name(c)).resolve() for c in configs}
    made, anew = Path(out), False
    for config in configs:
        folder = folders[stage_name(config)]
        if not anew and _finished(folder):
            made = folder / "package"
            continue
        if anew or any((folder / name).is_file() for name in (DONE, "summary.json")):
            anew = _remove(folder, "it is not as this experiment left it, or builds on such a stage", on_event) or anew
        folder.mkdir(parents=True, exist_ok=True)
        own = folder / "config.toml"
        text = toml_text(_of_arm(config, Path(data).resolve(), seed, folders)).encode("utf-8")
        with atomic_file(own) as stream:
            stream.write(text)
        resume = (folder / "checkpoint.pt").is_file()
        try:
            if resume:
                _check_own(folder / "checkpoint.pt", data)
            made = train(own, folder, resume=resume, device=device, on_event=on_event)
        except BadInput as error:
            if not resume:
                raise
            anew = _remove(folder, error.message, on_event)
            folder.mkdir(parents=True)
            with atomic_file(own) as stream:
                stream.write(text)
            made = train(own, folder, resume=False, device=device, on_event=on_event)
        _finish(folder)
    if not (made / "model.json").is_file():
        raise BadInput(
            f"'{configs[-1]}' makes no model package, so nothing can be generated", "Give the last stage a [package]."
        )
    return made


def _finish(folder: Path) -> None:
    """Notes what a stage was left with, so that it is known again."""
    there = [name for name in KEPT if (folder / name).is_file()]
    with atomic_file(folder / DONE) as stream:
        stream.write(json.dumps({name: sha256_of(folder / name) for name in there}).encode("utf-8"))


def _finished(folder: Path) -> bool:
    """Whether a stage is as `_finish` left it: not damaged, and not trained by another hand on other patients."""
    try:
        known = json.loads((folder / DONE).read_text(encoding="utf-8"))
        return KEPT[0] in known and all(sha256_of(folder / name) == known[name] for name in known)
    except (OSError, ValueError, TypeError):
        return False


def _check_own(checkpoint: Path, data: Path) -> None:
    """Refuses the checkpoint of an unfinished stage that does not say that it was trained on the arm's data."""
    from SynthDiffusionLib.training.files import read_table

    if read_table(checkpoint).get("data_sha256") != description_sha256(data):
        raise BadInput(f"'{checkpoint.name}' was not trained on the arm's patients")


def _remove(folder: Path, why: str, on_event: Callable[[dict], None]) -> bool:
    """Removes a stage that cannot be built on; whether there was one."""
    if not folder.exists():
        return False
    on_event({"event": "warning", "message": f"{folder.parent.name}, {folder.name}: trained anew: {why}"})
    shutil.rmtree(folder)
    return True


def _parsed(config: Path) -> dict[str, Any]:
    """A configuration as plain tables, [run] among them."""
    try:
        values = tomllib.loads(Path(config).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"'{config}' cannot be read: {error}", "Give --generator TOML files of a training.") from error
    if not isinstance(values.setdefault("run", {}), dict):
        raise BadInput("'run' is not a table", "Write [run] on a line of its own, and its settings below.")
    return values


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
