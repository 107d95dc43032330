"""Moments in files, of streams, and of data larger than memory."""

import subprocess
import sys
import weakref
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from naive import moments as naive_moments
from patience import PATIENCE

import shrinkstats
from shrinkstats import Moments
from shrinkstats import moments as moments_of

moments_module = sys.modules["shrinkstats.moments"]

pytestmark = pytest.mark.core

FIELDS = ("count", "samples", "mean", "m2", "minimum", "maximum", "sample_weight", "sample_mean", "sample_m2")


def random(*shape, dtype="float64", seed=0):
    return np.random.default_rng(seed).normal(1.0, 20.0, size=shape).astype(dtype)


def assert_naive(m, x, axis, sample_axis, tolerance=1e-12):
    expected = naive_moments(x.astype("float64"), axis, sample_axis)
    assert (m.count, m.samples) == (expected["count"], expected["samples"])
    for name in ("mean", "m2", "minimum", "maximum", "noise"):
        np.testing.assert_allclose(getattr(m, name), expected[name], rtol=tolerance, atol=tolerance, err_msg=name)


# --- files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("m", [moments_of(random(4, 3, 5)), Moments.empty(2), moments_of(np.full((2, 1), np.nan))])
def test_what_was_saved_is_loaded(m, tmp_path):
    path = tmp_path / "some name"
    m.save(path)
    found = Moments.load(str(path))
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(found, name), getattr(m, name))
    assert type(found.count) is type(found.samples) is int
    assert [p.name for p in tmp_path.iterdir()] == ["some name"]


def test_of_other_libraries(xp, tmp_path):
    x = random(4, 3, 5)
    moments_of(xp.array(x)).save(tmp_path / "m.npz")
    np.testing.assert_allclose(Moments.load(tmp_path / "m.npz").noise, moments_of(x).noise, rtol=1e-12)


def test_a_save_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "m.npz"
    moments_of(random(4, 3)).save(path)

    def full(file, **arrays):
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space"):
        moments_of(random(8, 3)).save(path)
    assert Moments.load(path).samples == 4
    assert [p.name for p in tmp_path.iterdir()] == ["m.npz"]


@given(st.data())
def test_damage_is_an_error_or_does_no_harm(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("damage") / "m.npz"
    m = moments_of(random(4, 3))
    m.save(path)
    content = bytearray(path.read_bytes())
    where = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[where] ^= data.draw(st.integers(1, 255))
    else:
        del content[where:]
    path.write_bytes(content)
    reason = None
    try:
        found = Moments.load(path)
    except ValueError as error:
        reason = str(error)
    if reason is None:  # a byte that carries nothing, such as a date
        for name in FIELDS:
            np.testing.assert_array_equal(getattr(found, name), getattr(m, name))
    else:
        assert reason.startswith(f"{path}: damaged, or not written by Moments.save: ")


def good():
    m = moments_of(random(4, 3))
    return {name: np.asarray(getattr(m, name)) for name in FIELDS}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"mean": np.zeros(2)}, "m2 is not a vector of 2 real numbers"),
        ({"mean": np.zeros((3, 1))}, r"mean has shape \(3, 1\)"),
        ({"mean": np.zeros(0)}, r"mean has shape \(0,\)"),
        ({"maximum": np.zeros(3, complex)}, "maximum is not a vector"),
        ({"m2": -np.ones(3)}, "m2 is negative"),
        ({"count": np.array(1.5)}, "count is not a number"),
        ({"count": np.array([4])}, "count is not a number"),
        ({"count": np.array(0)}, "cannot be"),
        ({"samples": np.array(5)}, "cannot be"),
        ({"sample_weight": np.array(np.nan)}, "cannot be"),
        ({"sample_weight": np.array(-0.5)}, "cannot be"),
        ({"extra": np.zeros(1)}, "it holds .*extra.npy; expected"),
        ({"mean": np.array([{}, {}, {}])}, "allow_pickle=False"),
    ],
)
def test_other_contents_are_an_error(change, reason, tmp_path):
    np.savez(tmp_path / "m.npz", **(good() | change))
    with pytest.raises(ValueError, match=reason):
        Moments.load(tmp_path / "m.npz")


@pytest.mark.parametrize("name", FIELDS[2:])
def test_no_data_have_no_numbers(name, tmp_path):
    nothing = Moments.empty(3)
    fields = {field: np.asarray(getattr(nothing, field)) for field in FIELDS}
    np.savez(tmp_path / "m.npz", **(fields | {name: np.ones_like(fields[name])}))
    with pytest.raises(ValueError, match=f"count=0, but {name} is not that of no data"):
        Moments.load(tmp_path / "m.npz")


def test_other_files_are_an_error(tmp_path):
    np.savez_compressed(tmp_path / "compressed.npz", **good())
    np.save(tmp_path / "array.npy", np.zeros(3))
    (tmp_path / "empty.npz").touch()
    with zipfile.ZipFile(tmp_path / "nothing.npz", "w"):
        pass
    for name in ("compressed.npz", "array.npy", "empty.npz", "nothing.npz"):
        with pytest.raises(ValueError, match=f"{name}: damaged, or not written by Moments.save: "):
            Moments.load(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        Moments.load(tmp_path / "missing.npz")


# --- streams -------------------------------------------------------------------------------------------------------


def test_a_stream_stops_and_goes_on(tmp_path):
    x = random(10, 3, 4)
    stream = (x[i : i + 2] for i in range(0, 10, 2))
    moments_of(x for x, _ in zip(stream, range(2), strict=False)).save(tmp_path / "m.npz")
    done = Moments.load(tmp_path / "m.npz")
    rest = moments_of(iter([x[done.samples :]]))
    assert_naive(done + rest, x, 1, 0)


def test_a_stream_keeps_one_array_at_a_time():
    seen = []

    def stream():
        for i in range(4):
            x = random(2, 3, seed=i)
            seen.append(weakref.ref(x))
            assert sum(r() is not None for r in seen) <= 2  # the one before may still be in hand
            yield x

    assert moments_of(stream()).samples == 8


def test_a_stream_takes_the_axes_and_gives_errors():
    x = random(4, 5, 3)
    assert_naive(moments_of(iter(x[:, None]), axis=-1, sample_axis=0), x, 2, 0)
    with pytest.raises(ValueError, match="yielded no array"):
        moments_of(iter([]))
    with pytest.raises(ValueError, match="different numbers of channels"):
        moments_of(iter([random(2, 3), random(2, 4)]))


# --- blocks --------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=4),
    st.sampled_from(["float16", "int16", "uint8", "float32", ">f8"]),
    st.integers(1, 20),
    st.data(),
)
def test_blocks_of_any_size_give_the_whole(shape, dtype, block, data):
    x = np.asfortranarray(random(*shape, dtype="float64") % 100).astype(dtype)
    axis = data.draw(st.integers(0, len(shape) - 1))
    sample_axis = data.draw(st.sampled_from([None, *(i for i in range(len(shape)) if i != axis)]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moments_module, "BLOCK", block)
        m = moments_of(x, axis=axis, sample_axis=sample_axis)
    assert_naive(m, x, axis, sample_axis, 1e-5 if dtype == "float32" else 1e-11)


FLAT = """
import resource, sys
import numpy as np
import shrinkstats

shape, dtype, order, spare = {shape}, {dtype!r}, {order!r}, 48 * 2**20
shrinkstats.moments(np.ones((4, 3, 2), {dtype!r}))  # compiled
shrinkstats.moments(np.ones((2**20, 3, 2), {dtype!r}))  # and its threads started
x = np.memmap(sys.argv[1], dtype, "w+", shape=shape, order=order)
x[-1, -1] = 12
used = int(next(line for line in open("/proc/self/status") if line.startswith("VmData")).split()[1]) * 1024
assert x.nbytes > 4 * spare
resource.setrlimit(resource.RLIMIT_DATA, (used + spare, used + spare))
try:
    np.zeros(shape, dtype)
    sys.exit("the limit does not hold")
except MemoryError:
    pass
m = shrinkstats.moments(x)
assert m.maximum[-1] == 12 and m.samples == shape[0], m
"""


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="the limit on private memory is Linux's")
@pytest.mark.parametrize(
    ("shape", "dtype", "order"),
    [
        ((800, 16, 64, 64), "float32", "C"),
        ((3_300_000, 8, 2), "float32", "C"),  # small samples: their statistics are larger than they
        ((2, 2, 26_000_000), "int16", "C"),  # a sample larger than the limit once converted
        ((1_600, 65_536), "int16", "F"),
    ],
)
def test_memory_stays_flat(shape, dtype, order, tmp_path):
    """Sparse files of 200 MB, read with 48 MB of private memory to spare."""
    program = FLAT.format(shape=shape, dtype=dtype, order=order)
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "x"], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr


def test_memory_mapped_data_are_those_in_memory(tmp_path):
    x = random(6, 3, 4, dtype="float32")
    x.tofile(tmp_path / "x")
    mapped = np.memmap(tmp_path / "x", "float32", "r", shape=x.shape)
    m, expected = moments_of(mapped), shrinkstats.moments(x)
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(m, name), getattr(expected, name))


CONTRADICTIONS = {
    "extremes": {"minimum": np.full(3, 9.0), "maximum": np.full(3, -9.0)},
    "mean": {"mean": np.array([0.0, 1e300, 0.0])},
    "count": {"count": np.array(2**62)},
    "weight": {"sample_weight": np.array(0.0)},
}


@pytest.mark.parametrize("what", CONTRADICTIONS)
def test_contents_that_contradict_each_other_are_refused(what, tmp_path):
    path = tmp_path / "m.npz"
    found = shrinkstats.moments(np.random.default_rng(0).normal(size=(4, 3, 2)))
    np.savez(path, **{**{k: np.asarray(v) for k, v in vars(found).items()}, **CONTRADICTIONS[what]})
    with pytest.raises(ValueError, match=r"m\.npz: damaged"):
        shrinkstats.Moments.load(path)


def test_a_sum_that_left_the_range_is_saved_and_loaded(tmp_path):
    """As in files of earlier releases, which did not know better."""
    found = shrinkstats.moments(np.full((8, 2), 1.7e308))
    found = replace(found, mean=found.mean * np.inf, m2=found.m2 * np.nan, sample_mean=found.mean * np.inf)
    found.save(tmp_path / "m.npz")
    np.testing.assert_array_equal(shrinkstats.Moments.load(tmp_path / "m.npz").mean, found.mean)
