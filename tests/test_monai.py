"""MONAI's networks with other normalizations, and its transforms as a second opinion on the reader's."""

import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra shrinkstats[torch]")
nibabel = pytest.importorskip("nibabel", reason="needs the extra shrinkstats[medical]")
pytest.importorskip("sklearn", reason="needs the extra shrinkstats[sklearn]")
transforms = pytest.importorskip("monai.transforms", reason="needs the extra shrinkstats[medical]")

from benchmarks.ppmi import study as ppmi  # noqa: E402
from benchmarks.ppmi.nets import NETS, Run  # noqa: E402
from shrinkstats.adapters.datasets import PPMI  # noqa: E402
from shrinkstats.adapters.datasets.nifti import common_grid, read_nifti, resample  # noqa: E402
from shrinkstats.adapters.torch import ShrinkBatchNorm3d  # noqa: E402

SHAPE = (32, 30, 29)


@pytest.mark.parametrize("net", [net for net in NETS if net != "small_cnn3d"])
def test_networks_take_any_normalization(net):
    plain = Run(net, "batch_norm", 2, 0).build(SHAPE)
    converted = Run(net, "stein_sampling", 2, 0).build(SHAPE)
    before, after = plain.state_dict(), converted.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    layers = [
        [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm3d)]
        for model in (plain, converted)
    ]
    assert len(layers[0]) == len(layers[1]) > 8
    assert all(isinstance(module, ShrinkBatchNorm3d) for module in layers[1])
    assert not any(isinstance(module, ShrinkBatchNorm3d) for module in layers[0])
    volumes = torch.rand(2, 1, *SHAPE, generator=torch.Generator().manual_seed(0))
    logits = converted(volumes)
    assert logits.shape == (2, 1)
    ppmi.losses(logits, torch.tensor([0, 1])).mean().backward()
    assert all(bool(parameter.grad.isfinite().all()) for parameter in converted.parameters())
    assert any(bool(parameter.grad.any()) for parameter in converted.parameters())


def test_a_volume_too_small_for_a_network_is_named():
    with pytest.raises(SystemExit, match=r"densenet121 needs 29 voxels along every axis, got \(32, 44, 28\)"):
        NETS["densenet121"]((32, 44, 28))
    net = NETS["densenet121"]((29, 29, 29)).eval()
    with torch.no_grad():
        assert net(torch.rand(1, 1, 29, 29, 29)).shape == (1, 1)
        with pytest.raises(RuntimeError):
            net(torch.rand(1, 1, 29, 28, 29))


def test_without_monai_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "monai.networks", None)
    with pytest.raises(SystemExit, match=r"resnet10 is of MONAI.*pip install shrinkstats\[medical\]"):
        NETS["resnet10"](SHAPE)


# --- the reader ----------------------------------------------------------------------------------------------------


@pytest.fixture
def scan(tmp_path):
    """A smooth volume whose axes go left, up, front, with voxels of 2 x 3 x 2.5 mm; its file."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*(np.linspace(0, 3, n) for n in (14, 12, 16)), indexing="ij"))
    waves = rng.normal(size=(6, 3))
    values = 5 + sum(np.sin(np.tensordot(wave, grid, 1)) for wave in waves) + 0.01 * rng.random((14, 12, 16))
    affine = np.array([[-2.0, 0, 0, 11], [0, 0, 2.5, -7], [0, 3, 0, 4], [0, 0, 0, 1]])
    path = tmp_path / "I1.nii.gz"
    nibabel.save(nibabel.Nifti1Image(values.astype(np.float32), affine), path)
    return path


def test_axes_are_turned_as_by_monai(scan):
    image = transforms.LoadImage(image_only=True, ensure_channel_first=True)(str(scan))
    turned = transforms.Orientation(axcodes="RAS", labels=(("L", "R"), ("P", "A"), ("I", "S")))(image)
    volume = read_nifti(scan)
    assert np.array_equal(volume.values, turned[0].numpy())
    assert np.allclose(volume.affine, turned.affine.numpy())


def test_volumes_are_resampled_as_by_monai(scan):
    """On a finer grid that ends within the volume, where smoothing and edges play no part."""
    volume, shape = read_nifti(scan), (12, 16, 14)
    grid = common_grid(volume, shape, (1.5, 1.25, 2.0))
    image = transforms.LoadImage(image_only=True, ensure_channel_first=True)(str(scan))
    resampled = transforms.SpatialResample(mode="bilinear", padding_mode="border", dtype=np.float64)(
        image, dst_affine=torch.from_numpy(grid), spatial_size=shape
    )
    assert np.allclose(resample(volume, grid, shape), resampled[0].numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("normalization", "theirs"),
    [
        ("zscore", lambda: transforms.NormalizeIntensity()),
        ("percentiles", lambda: transforms.ScaleIntensityRangePercentiles(1, 99, 0, 1, clip=True)),
    ],
)
def test_intensities_are_normalized_as_by_monai(normalization, theirs, tmp_path):
    rng = np.random.default_rng(0)
    for k in range(2):
        values = rng.gamma(2, size=(9, 8, 7)).astype(np.float32) + 0.1
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / f"I{k}.nii")
    (tmp_path / "table.csv").write_text("Image Data ID,Subject,Group\nI0,S0,PD\nI1,S1,Control\n")
    known = PPMI(tmp_path, tmp_path / "table.csv", positive="PD", normalization=normalization)
    plain = PPMI(tmp_path, tmp_path / "table.csv", positive="PD", normalization=None)
    for (found, _), (raw, _) in zip(known, plain, strict=True):
        assert np.allclose(found, theirs()(torch.from_numpy(raw)).numpy(), atol=1e-5)
