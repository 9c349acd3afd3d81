"""Features of networks that others have trained: MedicalNet's 3D ResNets, and 2D ResNet-50s for slices.

The weights are not part of the project; their file is given by whoever has it, and read as tensors only.

* MedicalNet (Chen et al. 2019, arXiv:1904.00625; github.com/Tencent/MedicalNet): ResNet-10, 18, 34 or 50 in MONAI's
  classes. The published network keeps an eighth of the resolution by dilating its last two stages, where MONAI's class
  halves it twice more with the same weights; here it is dilated, as it was trained.
* ResNet-50 of torchvision, or of RadImageNet (Mei et al. 2022, Radiol Artif Intell 4:e210315), in either of its two
  PyTorch forms: the one with torchvision's network under other names, and the one converted from Keras, whose
  convolutions have a bias and whose stride is in the first convolution of a block.

Features are the channel means after the last block (global average pooling).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from SynthDiffusionLib.errors import BadInput

if TYPE_CHECKING:
    import torch

DEPTHS = {("basic", (1, 1, 1, 1)): 10, ("basic", (2, 2, 2, 2)): 18, ("basic", (3, 4, 6, 3)): 34,
          ("bottleneck", (3, 4, 6, 3)): 50}  # fmt: skip
DILATION = {"layer3": 2, "layer4": 4}
HEADS = ("conv_seg.", "fc.")
SMALLEST_SIDE = 16  # voxels; below, a stage of MedicalNet has nothing left to convolve
SLICE_SIDE = 224  # a smaller slice is enlarged until its shorter side has so many pixels
KERAS_EPSILON = 1.001e-5
IMAGENET_MEAN, IMAGENET_SD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RADIMAGENET_MEAN = (0.406, 0.456, 0.485)
# Numbers of the children of torchvision's network, which RadImageNet's own PyTorch files use for names.
CHILDREN = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}


@dataclass(frozen=True)
class Network:
    """A network with what the results say about it.

    Args:
        module: images (B, C, ...) to features (B, D).
        features: D.
        description: architecture, file's sha256, normalisation, size.
    """

    module: torch.nn.Module
    features: int
    description: dict[str, Any]


def load_medicalnet(path: Path) -> Network:
    """Reads a MedicalNet file.

    Args:
        path: such as `resnet_50_23dataset.pth`; the depth is told from the tensors.

    Raises:
        ModelError: unreadable, or no state dict.
        BadInput: it is no MedicalNet ResNet-10, 18, 34 or 50.
    """
    from SynthDiffusionLib.models.checkpoints import read_tensors

    tensors = {k: v for k, v in read_tensors(Path(path)).items() if not k.startswith(HEADS)}
    first = tensors.get("conv1.weight")
    if first is None or first.ndim != 5:
        found = "no tensor conv1.weight" if first is None else f"conv1.weight of the shape {tuple(first.shape)}"
        raise BadInput(
            f"'{Path(path).name}' is no MedicalNet network: it has {found}; expected (64, 1, 7, 7, 7)",
            "Give a file such as resnet_50_23dataset.pth of github.com/Tencent/MedicalNet.",
        )
    block, layers = _blocks(tensors)
    depth = DEPTHS.get((block, layers))
    if depth is None:
        raise BadInput(
            f"'{Path(path).name}' has {layers} {block} blocks; ResNet-10, 18, 34 and 50 are known",
            "Give one of these, such as resnet_10_23dataset.pth or resnet_50_23dataset.pth.",
        )
    shortcut = "B" if any(".downsample." in k for k in tensors) else "A"
    network = _empty(block, layers, 3, 1, shortcut, "layer2.0.downsample.0.bias" in tensors)
    _load(network, tensors, path, f"MedicalNet's ResNet-{depth}")
    _dilate(network)
    features = 512 * (4 if block == "bottleneck" else 1)
    description = {
        "network": f"MedicalNet ResNet-{depth}",
        "shortcut": shortcut,
        "sha256": _sha256(path),
        "features": features,
        "normalisation": "the frame's intensity range becomes 0 to 1",
        "size": f"the volume's own in the frame's spacing; sides below {SMALLEST_SIDE} voxels are padded with the "
        "darkest value",
        "dilation": "last two stages dilated by 2 and 4 as published, no stride",
    }
    return Network(network.eval(), features, description)


def load_resnet2d(path: Path) -> Network:
    """Reads a 2D ResNet-50: torchvision's names, RadImageNet's, or those converted from Keras.

    Raises:
        ModelError: unreadable, or no state dict.
        BadInput: it is no ResNet-50.
    """
    from SynthDiffusionLib.models.checkpoints import read_tensors

    tensors = _torchvision_names(read_tensors(Path(path)))
    first = tensors.get("conv1.weight")
    if first is None or tuple(first.shape[1:]) != (3, 7, 7):
        found = "no tensor conv1.weight" if first is None else f"conv1.weight of the shape {tuple(first.shape)}"
        raise BadInput(
            f"'{Path(path).name}' is no 2D ResNet-50: it has {found}; expected (64, 3, 7, 7)",
            "Give the state dict of torchvision's resnet50, or of RadImageNet's.",
        )
    block, layers = _blocks(tensors)
    if (block, layers) != ("bottleneck", (3, 4, 6, 3)):
        raise BadInput(
            f"'{Path(path).name}' has {layers} {block} blocks; a ResNet-50 has (3, 4, 6, 3) bottleneck blocks",
            "Give the state dict of torchvision's resnet50, or of RadImageNet's.",
        )
    network = _empty(block, layers, 2, 3, "B", False)
    keras = "conv1.bias" in tensors
    _load(network, _folded(tensors) if keras else tensors, path, "a 2D ResNet-50")
    if keras:
        _stride_first(network)
    description = {
        "network": "ResNet-50, " + ("converted from Keras" if keras else "of torchvision"),
        "sha256": _sha256(path),
        "features": 2048,
        "normalisation": "the frame's intensity range becomes 0 to 1, three equal channels, less "
        + (f"{RADIMAGENET_MEAN}" if keras else f"{IMAGENET_MEAN}, divided by {IMAGENET_SD}"),
        "size": f"the slice's own; enlarged (bilinear) where its shorter side is below {SLICE_SIDE} pixels",
    }
    mean, sd = (RADIMAGENET_MEAN, (1.0, 1.0, 1.0)) if keras else (IMAGENET_MEAN, IMAGENET_SD)
    return Network(_Slices(network.eval(), mean, sd), 2048, description)


def volume_features(network: Network, image: np.ndarray, intensity_range: tuple[float, float]) -> np.ndarray:
    """(1, D) float64 features of a volume (I, J, K)."""
    import torch

    low, high = intensity_range
    scaled = np.clip((image.astype(np.float32) - low) / (high - low), 0.0, 1.0)
    short = [max(0, SMALLEST_SIDE - n) for n in scaled.shape]
    scaled = np.pad(scaled, [(s // 2, s - s // 2) for s in short])
    with torch.inference_mode():
        return network.module(torch.from_numpy(scaled)[None, None]).numpy().astype(np.float64)


def slice_features(network: Network, slices: np.ndarray, intensity_range: tuple[float, float]) -> np.ndarray:
    """(N, D) float64 features of slices (N, H, W)."""
    import torch

    low, high = intensity_range
    scaled = np.clip((slices.astype(np.float32) - low) / (high - low), 0.0, 1.0)
    found = []
    with torch.inference_mode():
        for image in scaled:
            found.append(network.module(torch.from_numpy(image)[None, None]).numpy()[0])
    return np.array(found, np.float64)


def _Slices(network, mean, sd):  # noqa: N802 - makes a module; torch is imported inside
    import torch

    class Slices(torch.nn.Module):
        """(1, 1, H, W) from 0 to 1 to the features of its three channels."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network
            self.register_buffer("mean", torch.tensor(mean)[None, :, None, None])
            self.register_buffer("sd", torch.tensor(sd)[None, :, None, None])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            shorter = min(x.shape[2:])
            if shorter < SLICE_SIDE:
                size = [round(n * SLICE_SIDE / shorter) for n in x.shape[2:]]
                x = torch.nn.functional.interpolate(x, size=size, mode="bilinear", align_corners=False)
            return self.network((x.expand(-1, 3, -1, -1) - self.mean) / self.sd)

    return Slices().eval()


def _empty(block: str, layers: tuple[int, ...], dimensions: int, channels: int, shortcut: str, bias: bool):
    """MONAI's network without weights: none are drawn, since all of them are read."""
    import torch
    from monai.networks.nets.resnet import ResNet, get_inplanes

    with torch.device("meta"):
        return ResNet(
            block,
            list(layers),
            get_inplanes(),
            spatial_dims=dimensions,
            n_input_channels=channels,
            conv1_t_stride=2,
            shortcut_type=shortcut,
            feed_forward=False,
            bias_downsample=bias,
        )


def _blocks(tensors: Mapping[str, torch.Tensor]) -> tuple[str, tuple[int, ...]]:
    layers = []
    for stage in range(1, 5):
        names = {k.split(".")[1] for k in tensors if k.startswith(f"layer{stage}.")}
        layers.append(len(names))
    return ("bottleneck" if "layer1.0.conv3.weight" in tensors else "basic"), tuple(layers)


def _load(network, tensors: Mapping[str, torch.Tensor], path: Path, what: str) -> None:
    import torch

    wanted = network.state_dict()
    counters = {k for k in wanted if k.endswith("num_batches_tracked")}
    missing = sorted(set(wanted) - set(tensors) - counters)
    extra = sorted(set(tensors) - set(wanted))
    shapes = [k for k in wanted if k in tensors and tensors[k].shape != wanted[k].shape]
    if missing or extra or shapes:
        told = [f"{len(missing)} tensors are missing, first {missing[0]}"] if missing else []
        told += [f"{len(extra)} are unknown, first {extra[0]}"] if extra else []
        told += [
            f"{shapes[0]} has the shape {tuple(tensors[shapes[0]].shape)}, not {tuple(wanted[shapes[0]].shape)}"
        ] if shapes else []  # fmt: skip
        raise BadInput(f"'{Path(path).name}' does not fit {what}: {'; '.join(told)}", "Get the published file again.")
    bad = next((k for k, v in tensors.items() if v.is_floating_point() and not v.isfinite().all()), None)
    if bad is not None:
        raise BadInput(f"'{Path(path).name}': the tensor {bad} is not finite", "Get the published file again.")
    weights = {k: v.float() for k, v in tensors.items() if k not in counters}
    network.load_state_dict({**weights, **{k: torch.zeros((), dtype=torch.long) for k in counters}}, assign=True)


def _dilate(network) -> None:
    """Sets strides and dilations of the last two stages to MedicalNet's; the weights stay."""
    for name, dilation in DILATION.items():
        for block in getattr(network, name):
            for convolution in (block.conv1, block.conv2):
                convolution.stride = (1, 1, 1)
                if convolution.kernel_size == (3, 3, 3):
                    convolution.dilation = convolution.padding = (dilation,) * 3
            if isinstance(block.downsample, partial):
                block.downsample = partial(block.downsample.func, **{**block.downsample.keywords, "stride": 1})
            elif block.downsample is not None:
                block.downsample[0].stride = (1, 1, 1)


def _torchvision_names(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    renamed = {}
    for name, tensor in tensors.items():
        parts = name.removeprefix("backbone.").split(".")
        parts[0] = CHILDREN.get(parts[0], parts[0])
        renamed[".".join(parts)] = tensor
    return {k: v for k, v in renamed.items() if not k.startswith(HEADS)}


def _folded(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Biases of convolutions taken into the running mean of the normalisation that follows: the same function."""
    folded = dict(tensors)
    for name in [k for k in tensors if k.endswith(".bias")]:
        stem = name.removesuffix(".bias")
        if f"{stem}.weight" in tensors and tensors[f"{stem}.weight"].ndim == 4:
            if stem.endswith("downsample.0"):
                follows = f"{stem[:-1]}1.running_mean"
            else:
                follows = f"{stem[: -len(stem.split('.')[-1])]}{stem.split('.')[-1].replace('conv', 'bn')}.running_mean"
            folded[follows] = folded[follows] - folded.pop(name)
    return folded


def _stride_first(network) -> None:
    """Keras's ResNet-50 halves the resolution in the first convolution of a block, torchvision's in the second."""
    import torch

    for name in ("layer2", "layer3", "layer4"):
        block = getattr(network, name)[0]
        block.conv1.stride, block.conv2.stride = (2, 2), (1, 1)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = KERAS_EPSILON


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        for block in iter(partial(stream.read, 1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
