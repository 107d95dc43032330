"""The mean corruption error against hand calculation and published numbers."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shrinkstats.adapters.robustness import (
    ALEXNET,
    ALEXNET_CLEAN,
    CORRUPTIONS,
    corruption_errors,
    mean_corruption_error,
    relative_mean_corruption_error,
)

REFERENCE = Path(__file__).parent / "reference" / "alexnet.json"
# ALEXNET_ERR of google-research/augmix: means over severities, published apart from the table by severity.
AUGMIX = (
    0.886428, 0.894468, 0.922640, 0.819880, 0.826268, 0.785948, 0.798360, 0.866816, 0.826572, 0.819324, 0.564592,
    0.853204, 0.646056, 0.717840, 0.606500,
)  # fmt: skip
# A published log of torchvision's ResNet-50 (clean accuracy 76.13): accuracy and corruption error in percent.
RESNET50 = {
    "brightness": (68.02, 56.64),
    "contrast": (39.06, 71.43),
    "defocus_blur": (38.75, 74.71),
    "elastic_transform": (45.25, 84.75),
    "fog": (45.83, 66.11),
    "frost": (38.14, 74.84),
    "gaussian_noise": (29.29, 79.77),
    "glass_blur": (26.79, 88.61),
    "impulse_noise": (23.81, 82.58),
}


def test_the_table_is_the_published_one():
    assert tuple(ALEXNET) == CORRUPTIONS
    assert [sum(errors) / 5 for errors in ALEXNET.values()] == pytest.approx(AUGMIX, abs=1e-12)
    reference = json.loads(REFERENCE.read_text())
    assert {name: list(errors) for name, errors in ALEXNET.items()} == reference["errors"]


@pytest.mark.parametrize("name", RESNET50)
def test_published_corruption_errors(name):
    accuracy, published = RESNET50[name]
    (error,) = corruption_errors({name: 1 - accuracy / 100}, baseline={name: ALEXNET[name]}).values()
    assert 100 * error == pytest.approx(published, abs=0.015)  # both numbers are rounded to 0.01


def test_hand_calculation():
    baseline = {"fog": [0.2, 0.4, 0.6, 0.8, 1.0], "snow": 0.5}
    errors = {"snow": [0.1, 0.1, 0.2, 0.3, 0.3], "fog": [0.1, 0.1, 0.1, 0.1, 0.5]}
    assert corruption_errors(errors, baseline=baseline) == pytest.approx({"fog": 0.9 / 3.0, "snow": 1.0 / 2.5})
    assert list(corruption_errors(errors, baseline=baseline)) == ["fog", "snow"]
    assert mean_corruption_error(errors, baseline=baseline) == pytest.approx((0.3 + 0.4) / 2)
    # Relative: (0.18 - 0.08) / (0.6 - 0.1) = 0.2 for fog, (0.2 - 0.08) / (0.5 - 0.1) = 0.3 for snow.
    relative = relative_mean_corruption_error(errors, 0.08, baseline=baseline, baseline_clean=0.1)
    assert relative == pytest.approx((0.2 + 0.3) / 2)


def test_a_mean_counts_as_five_errors():
    means = {name: sum(errors) / 5 for name, errors in ALEXNET.items()}
    assert mean_corruption_error(means) == pytest.approx(1)
    assert relative_mean_corruption_error(means, ALEXNET_CLEAN) == pytest.approx(1)


@given(st.floats(0, 1), st.lists(st.floats(0, 1), min_size=15, max_size=15))
def test_proportional_to_the_errors(scale, values):
    errors = dict(zip(CORRUPTIONS, values, strict=True))
    scaled = {name: scale * value for name, value in errors.items()}
    assert mean_corruption_error(scaled) == pytest.approx(scale * mean_corruption_error(errors), abs=1e-12)
    assert 0 <= mean_corruption_error(errors) <= 1 / 0.564592


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fog": None}, "lack fog"),
        ({"spatter": 0.5}, "no spatter"),
        ({"fog": 23.9}, "fog.*between 0 and 1.*divide percentages"),
        ({"fog": [0.1, 0.2, float("nan"), 0.1, 0.1]}, "fog.*between 0 and 1"),
        ({"fog": [0.1, 0.2, 0.3]}, r"fog.*five severities.*\(3,\)"),
    ],
)
def test_errors_that_will_not_do(change, message):
    errors = {name: value for name, value in (dict(ALEXNET) | change).items() if value is not None}
    with pytest.raises(ValueError, match=message):
        mean_corruption_error(errors)


def test_a_baseline_without_error():
    with pytest.raises(ValueError, match="fog leaves nothing to divide by"):
        mean_corruption_error({"fog": 0.5}, baseline={"fog": 0.0})
    with pytest.raises(ValueError, match="brightness leaves nothing"):
        relative_mean_corruption_error(ALEXNET, 0.2, baseline_clean=0.6)
    with pytest.raises(ValueError, match=r"clean.*between 0 and 1"):
        relative_mean_corruption_error(ALEXNET, 24)
