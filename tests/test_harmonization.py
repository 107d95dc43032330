"""Scanners' differences go, by what the training volumes tell; nothing else changes."""

import sys
import types

import numpy as np
import pytest

from shrinkstats.adapters.datasets import harmonize

SHAPE = (40, 1, 6, 5, 4)


@pytest.fixture
def made():
    """Volumes of three scanners, each with a shift and a scale of its own; 30 of 40 to train on. A corner is empty."""
    rng = np.random.default_rng(0)
    scanners = rng.permutation(np.repeat(["GE", "Philips", "Siemens"], [14, 13, 13]))
    number = np.unique(scanners, return_inverse=True)[1].reshape(-1, 1, 1, 1, 1)
    images = 5 + rng.normal(size=SHAPE[1:]) + rng.normal(size=SHAPE) * (1 + number) + 3 * number
    images[:, :, :2, :2, :2] = 0
    images[rng.random(SHAPE) < 0.02] = 0
    return images.astype(np.float32), scanners, np.sort(rng.permutation(40)[:30])


def spread(images, scanners, chosen):
    """Between scanners, of the means of all voxels and of their standard deviations."""
    of = [images[chosen][scanners[chosen] == name][:, :, 2:] for name in np.unique(scanners)]
    return np.ptp([part.mean() for part in of]), np.ptp([part.std(0).mean() for part in of])


def test_scanners_become_alike(made):
    pytest.importorskip("combatlearn", reason="needs the extra shrinkstats[harmonization]")
    images, scanners, train = made
    changed = harmonize(images, scanners, train)
    assert changed.shape == images.shape
    assert changed.dtype == np.float32
    test = np.setdiff1d(np.arange(40), train)
    for chosen in (train, test):
        before, after = spread(images, scanners, chosen), spread(changed, scanners, chosen)
        assert before[0] > 5
        assert after[0] < 0.1 * before[0]
        assert after[1] < 0.5 * before[1]


def test_nothing_of_a_test_volume_reaches_another(made):
    pytest.importorskip("combatlearn", reason="needs the extra shrinkstats[harmonization]")
    images, scanners, train = made
    test = np.setdiff1d(np.arange(40), train)
    other = images.copy()
    other[test[0]] = 1000 * np.random.default_rng(1).random(SHAPE[1:])
    first, second = harmonize(images, scanners, train), harmonize(other, scanners, train)
    rest = np.setdiff1d(np.arange(40), test[:1])
    assert np.array_equal(first[rest], second[rest])


def test_background_stays(made):
    pytest.importorskip("combatlearn", reason="needs the extra shrinkstats[harmonization]")
    images, scanners, train = made
    images[:, :, 5, 4, 3] = 7  # does not vary
    images[train[:16], :, 5, 4, 2] = 0  # mostly background
    kept = images.copy()
    changed = harmonize(images, scanners, train)
    assert np.array_equal(images, kept)
    assert np.array_equal(changed == 0, images == 0)
    assert np.array_equal(changed[:, :, 5, 4, 2:], images[:, :, 5, 4, 2:])
    assert (changed[:, :, 3:5] != images[:, :, 3:5])[images[:, :, 3:5] != 0].all()


def test_what_will_not_do_is_named(made, monkeypatch):
    images, scanners, train = made
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "combatlearn", None)
        with pytest.raises(ModuleNotFoundError, match=r"combatlearn.*pip install shrinkstats\[harmonization\]"):
            harmonize(images, scanners, train)
    pytest.importorskip("combatlearn", reason="needs the extra shrinkstats[harmonization]")
    with pytest.raises(ValueError, match=r"a scanner for each of 40 volumes, got shape \(39,\)"):
        harmonize(images, scanners[:39], train)
    scanners = scanners.astype(object)
    scanners[np.setdiff1d(np.arange(40), train)[0]] = "unseen"
    scanners[train[0]] = "once"
    with pytest.raises(ValueError, match="fewer than two training volumes are of once, unseen; leave"):
        harmonize(images, scanners, train)


@pytest.fixture
def without_combat(monkeypatch):
    """What is looked at before ComBat is: a stand-in that may not be asked."""
    pytest.importorskip("pandas", reason="pandas is not installed")

    class Unasked:
        def __init__(self, **options):
            raise AssertionError("ComBat was asked")

    monkeypatch.setitem(sys.modules, "combatlearn", types.SimpleNamespace(ComBat=Unasked))


def test_volumes_of_one_scanner_stay_as_they_are(made, without_combat):
    images, _, train = made
    changed = harmonize(images, np.full(40, "GE"), train)
    assert np.array_equal(changed, images)
    assert not np.shares_memory(changed, images)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "complex64", "bool"])
def test_volumes_of_whole_numbers_are_refused(made, without_combat, dtype):
    images, scanners, train = made
    with pytest.raises(TypeError, match=f"images must be an array of floating-point numbers, got dtype {dtype}"):
        harmonize(images.astype(dtype), scanners, train)
    with pytest.raises(TypeError, match="got list"):
        harmonize(images.tolist(), scanners, train)


def test_training_volumes_count_once(made, without_combat):
    images, scanners, train = made
    few = [*train[scanners[train] != "GE"], *[train[scanners[train] == "GE"][0]] * 2]
    with pytest.raises(ValueError, match="fewer than two training volumes are of GE; leave"):
        harmonize(images, scanners, few)
    with pytest.raises(ValueError, match="fewer than two training volumes are of GE, Philips, Siemens; leave"):
        harmonize(images, scanners, [])
    for odd, message in (([0.0, 1.0], "dtype float64"), (np.ones(40, bool), "dtype bool"), (["a"], "dtype <U1")):
        with pytest.raises(TypeError, match=f"train must hold indices of volumes, got {message}"):
            harmonize(images, scanners, odd)
    for odd in ([*train, 40], [*train, -1]):
        with pytest.raises(ValueError, match=f"train must hold indices from 0 to 39, got {odd[-1]}"):
            harmonize(images, scanners, odd)


@pytest.mark.parametrize("nothing", [None, np.nan, "", "nan"])
def test_a_volume_without_a_scanner_is_named(made, without_combat, nothing):
    images, scanners, train = made
    scanners = scanners.astype(object)
    scanners[[3, 7]] = nothing
    with pytest.raises(ValueError, match="volumes without a scanner: 3, 7; leave"):
        harmonize(images, scanners, train)


def test_volumes_that_cannot_be_used_are_named(made, without_combat):
    images, scanners, train = made
    with pytest.raises(ValueError, match="no voxel varies and is foreground"):
        harmonize(0 * images, scanners, train)
    images[5, 0, 3, 3, 3], images[np.setdiff1d(np.arange(40), train)[-1], 0, 0, 0, 0] = np.inf, np.nan
    bad = ", ".join(map(str, sorted([5, np.setdiff1d(np.arange(40), train)[-1]])))
    with pytest.raises(ValueError, match=f"volumes with NaN or infinity: {bad}; leave"):
        harmonize(images, scanners, train)
