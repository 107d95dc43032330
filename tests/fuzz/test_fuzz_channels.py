"""Layers of one number of channels on inputs of another: PyTorch's own error, before anything is read or written."""

import pytest
from fuzzing import fuzz
from hypothesis import strategies as st
from isolated import Child

pytest.importorskip("torch", reason="needs the extra shrinkstats[torch]")

import rules

from shrinkstats.estimators import BatchStatistics, SteinBlend


@pytest.fixture(scope="module")
def child():
    child = Child()
    yield child
    child.close()


@fuzz(
    2,
    features=st.integers(1, 9),
    channels=st.integers(0, 9),
    sizes=st.lists(st.sampled_from([1, 2, 3, 5]), min_size=1, max_size=4),
    images=st.sampled_from([4, 1, 2, 0]),
    rule=st.sampled_from([r for r in rules.RULES if type(r) not in (rules.Midpoint, rules.Noisy)]),
    mode=st.sampled_from(["train", "train", "evaluate", "adapted", "adapted", "grouped", "memory"]),
    options=st.fixed_dictionaries(
        {"affine": st.booleans(), "track_running_stats": st.sampled_from([True, True, False])}
    ),
    flags=st.fixed_dictionaries(
        {"calibrated": st.booleans(), "gradient": st.booleans(), "channels_last": st.booleans()}
    ),
)
def test_the_number_of_channels(child, features, channels, sizes, images, rule, mode, options, flags):
    if channels == 0 and images:
        channels = features + 1
    shape = (images, channels, *sizes[1:])
    adapting = mode in ("adapted", "grouped", "memory")
    rule = SteinBlend() if mode == "memory" and rule.uses_extremes else rule
    case = {
        "features": features, "shape": shape, "dimensions": max(1, len(shape) - 2), "options": options,
        "rule": BatchStatistics() if adapting else rule, "adaptation": rule if adapting else None,
        "training": mode == "train", "group": 2 if mode == "grouped" and images % 2 == 0 else None,
        "memory": mode == "memory", **flags,
    }  # fmt: skip
    ours, theirs = child.attempt(case)
    if theirs is not None and theirs[0] == "normalized":
        return  # PyTorch has nothing to compare the channels with, or they are right
    assert isinstance(ours, tuple), f"{ours}: {case}"
    if theirs[0] == "ValueError" and adapting and ours[0] == "normalized":
        return  # a rule may know what one value per channel says
    if theirs[0] == "ValueError":  # one value per channel, which we say in our own words
        assert ours[0] in ("ValueError", "RuntimeError"), (ours, case)
    else:
        assert ours == theirs, case
    assert ours[2], f"the buffers changed: {case}"
