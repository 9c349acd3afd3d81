"""Features of MedicalNet and of a 2D ResNet-50, from files with random weights; nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.networks.nets import resnet

from SynthDiffusionLib.errors import BadInput, ModelError
from SynthDiffusionLib.evaluation.sets import medicalnet as m

RANGE = (-1000.0, 1000.0)
ARGUMENTS = {
    10: ("basic", [1, 1, 1, 1], "B", False),
    18: ("basic", [2, 2, 2, 2], "A", True),
    34: ("basic", [3, 4, 6, 3], "A", True),
    50: ("bottleneck", [3, 4, 6, 3], "B", False),
}


def random_network(depth: int, **options) -> resnet.ResNet:
    """MONAI's network with random weights and statistics."""
    block, layers, shortcut, bias = ARGUMENTS[depth]
    torch.manual_seed(depth)
    options = {"spatial_dims": 3, "n_input_channels": 1, "feed_forward": False} | options
    network = resnet.ResNet(
        block, layers, resnet.get_inplanes(), shortcut_type=shortcut, bias_downsample=bias, conv1_t_stride=2, **options
    )
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm3d):
            module.running_mean.normal_(0.0, 0.1)
            module.running_var.uniform_(0.5, 2.0)
    return network.eval()


def saved(path: Path, tensors: dict, prefix: str = "module.") -> Path:
    """As MedicalNet's files are: a state dict under "state_dict", every name with "module." before it."""
    torch.save({"state_dict": {f"{prefix}{k}": v for k, v in tensors.items()}}, path)
    return path


@pytest.fixture(scope="module")
def small() -> resnet.ResNet:
    return random_network(10)


@pytest.fixture(scope="module")
def flat() -> resnet.ResNet:
    return random_network(50, spatial_dims=2, n_input_channels=3)


@pytest.mark.parametrize("depth", [10, 18])
def test_medicalnet_is_read_by_its_tensors(tmp_path, small, depth):
    source = small if depth == 10 else random_network(depth)
    tensors = source.state_dict() | {"conv_seg.0.weight": torch.zeros(2)}
    network = m.load_medicalnet(saved(tmp_path / "net.pth", tensors))
    assert network.description["network"] == f"MedicalNet ResNet-{depth}"
    assert network.features == 512
    image = np.random.default_rng(1).normal(-300, 200, (24, 20, 12)).astype(np.float32)
    found = m.volume_features(network, image, RANGE)
    assert found.shape == (1, network.features) and np.isfinite(found).all() and found.std() > 0
    assert np.array_equal(found, m.volume_features(network, np.clip(image, *RANGE), RANGE))


def test_last_stages_are_dilated_as_published(tmp_path, small):
    """By hand: strides 2 (first convolution), 2 (pooling), 2 (second stage), then none; MONAI's own has 2 more."""
    network = m.load_medicalnet(saved(tmp_path / "net.pth", small.state_dict())).module
    sizes = {}
    for name in ("layer2", "layer3", "layer4"):
        getattr(network, name).register_forward_hook(lambda _, __, out, name=name: sizes.update({name: out.shape[2:]}))
    with torch.inference_mode():
        network(torch.zeros(1, 1, 32, 32, 32))
    assert [tuple(sizes[n]) for n in ("layer2", "layer3", "layer4")] == [(4, 4, 4)] * 3
    assert network.layer4[0].conv1.dilation == (4, 4, 4) and network.layer3[0].conv2.dilation == (2, 2, 2)


def test_first_two_stages_are_monais(tmp_path, small):
    reference = small
    ours = m.load_medicalnet(saved(tmp_path / "net.pth", reference.state_dict())).module
    x = torch.randn(1, 1, 24, 24, 24)
    with torch.inference_mode():
        results = []
        for network in (reference, ours):
            y = network.maxpool(network.act(network.bn1(network.conv1(x))))
            results.append(network.layer2(network.layer1(y)))
    assert torch.equal(*results)


def test_files_that_are_no_medicalnet_are_named(tmp_path, small):
    full = small.state_dict()
    less = {k: v for k, v in full.items() if k != "layer2.0.bn1.weight"}
    with pytest.raises(BadInput, match="1 tensors are missing, first layer2.0.bn1.weight"):
        m.load_medicalnet(saved(tmp_path / "less.pth", less))
    with pytest.raises(BadInput, match="conv1.weight"):
        m.load_medicalnet(saved(tmp_path / "other.pth", {"encoder.weight": torch.zeros(3)}))
    with pytest.raises(BadInput, match="blocks"):
        m.load_medicalnet(saved(tmp_path / "deep.pth", full | {"layer1.1.conv1.weight": torch.zeros(1)}))
    with pytest.raises(BadInput, match="not finite"):
        m.load_medicalnet(saved(tmp_path / "nan.pth", full | {"bn1.bias": torch.full((64,), torch.nan)}))
    with pytest.raises(BadInput, match="shape"):
        m.load_medicalnet(saved(tmp_path / "shape.pth", full | {"bn1.bias": torch.zeros(3)}))
    with pytest.raises(ModelError, match="no file"):
        m.load_medicalnet(tmp_path / "absent.pth")


def test_program_code_in_a_file_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"state_dict": {"conv1.weight": Trap()}}, tmp_path / "trap.pth")
    with pytest.raises(ModelError):
        m.load_medicalnet(tmp_path / "trap.pth")
    assert not (tmp_path / "ran").exists()


def test_torchvision_names_fit_and_radimagenets_are_mapped(tmp_path, flat, monkeypatch):
    """torchvision's resnet50 and MONAI's 2D one name their tensors alike; RadImageNet's file numbers the children."""
    monkeypatch.setattr(m, "SLICE_SIDE", 64)
    tensors = flat.state_dict()
    numbers = {name: number for number, name in m.CHILDREN.items()}
    numbered = {f"backbone.{numbers[k.split('.')[0]]}.{k.split('.', 1)[1]}": v for k, v in tensors.items()}
    plain = m.load_resnet2d(saved(tmp_path / "plain.pth", tensors | {"fc.weight": torch.zeros(2, 2)}, prefix=""))
    mapped = m.load_resnet2d(saved(tmp_path / "mapped.pth", numbered, prefix=""))
    slices = np.random.default_rng(2).normal(-300, 300, (1, 40, 56)).astype(np.float32)
    found = m.slice_features(plain, slices, RANGE)
    assert found.shape == (1, 2048)
    assert np.array_equal(found, m.slice_features(mapped, slices, RANGE))
    # The same by hand, with MONAI's network.
    x = torch.from_numpy((np.clip(slices, *RANGE) + 1000.0) / 2000.0)[:, None]
    x = torch.nn.functional.interpolate(x, size=(64, 90), mode="bilinear", align_corners=False).expand(-1, 3, -1, -1)
    x = (x - torch.tensor(m.IMAGENET_MEAN)[:, None, None]) / torch.tensor(m.IMAGENET_SD)[:, None, None]
    with torch.inference_mode():
        assert found == pytest.approx(flat(x).numpy(), rel=1e-4, abs=1e-5)


def test_a_file_converted_from_keras_is_the_same_function(tmp_path, flat):
    """Biases of convolutions and the place of the stride, against a block that is written out."""
    tensors = dict(flat.state_dict())
    biases = {}
    for name, module in flat.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            biases[f"{name}.bias"] = torch.randn(module.out_channels) * 0.1
    network = m.load_resnet2d(saved(tmp_path / "keras.pth", tensors | biases, prefix="")).module.network
    x = torch.rand(1, 3, 64, 64)

    def convolved(x: torch.Tensor, stem: str, normalisation: str, stride: int, padding: int) -> torch.Tensor:
        y = torch.nn.functional.conv2d(x, tensors[f"{stem}.weight"], biases[f"{stem}.bias"], stride, padding)
        n = {k: tensors[f"{normalisation}.{k}"] for k in ("running_mean", "running_var", "weight", "bias")}
        return torch.nn.functional.batch_norm(y, *n.values(), eps=1.001e-5)

    with torch.inference_mode():
        y = convolved(x, "conv1", "bn1", 2, 3).relu()
        assert network.act(network.bn1(network.conv1(x))).allclose(y, atol=1e-4)
        z = torch.rand(1, 256, 16, 16)
        by_hand = convolved(z, "layer2.0.conv1", "layer2.0.bn1", 2, 0).relu()
        by_hand = convolved(by_hand, "layer2.0.conv2", "layer2.0.bn2", 1, 1).relu()
        by_hand = convolved(by_hand, "layer2.0.conv3", "layer2.0.bn3", 1, 0)
        by_hand = (by_hand + convolved(z, "layer2.0.downsample.0", "layer2.0.downsample.1", 2, 0)).relu()
        assert network.layer2[0](z).allclose(by_hand, rtol=1e-3, atol=1e-3)


def test_a_3d_file_is_no_2d_network(tmp_path, small):
    with pytest.raises(BadInput, match="no 2D ResNet-50"):
        m.load_resnet2d(saved(tmp_path / "net.pth", small.state_dict()))
