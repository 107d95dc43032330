"""The CIFAR readers, on files as the archive has them and on files that are broken or hostile."""

import pickle
import struct
import subprocess
import sys

import numpy as np
import pytest

from shrinkstats.adapters.datasets import read_cifar10, read_cifar100


class Hostile:
    def __reduce__(self):
        return (print, ("this must not run",))


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "cifar-10-batches-py"
    root.mkdir()
    rng = np.random.default_rng(0)
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        content = {
            b"labels": rng.integers(0, 10, 4).tolist(),
            b"data": rng.integers(0, 256, (4, 3072), dtype=np.uint8),
            b"filenames": [b"a.png"] * 4,
        }
        (root / name).write_bytes(pickle.dumps(content, protocol=4))
    return tmp_path


def change(folder, **content):
    file = folder / "cifar-10-batches-py" / "test_batch"
    saved = pickle.loads(file.read_bytes())
    file.write_bytes(pickle.dumps(saved | {k.encode(): v for k, v in content.items()}, protocol=4))


def test_reads_both_splits(folder):
    images, labels = read_cifar10(folder, "train")
    assert images.shape == (20, 3, 32, 32)
    assert images.dtype == np.uint8
    assert labels.shape == (20,)
    saved = pickle.loads((folder / "cifar-10-batches-py" / "test_batch").read_bytes())
    images, labels = read_cifar10(folder / "cifar-10-batches-py")
    assert np.array_equal(images.reshape(4, -1), saved[b"data"])
    assert labels.tolist() == saved[b"labels"]


def test_a_file_that_asks_for_code_is_refused(folder, capsys):
    change(folder, extra=Hostile())
    with pytest.raises(ValueError, match=r"test_batch.*print"):
        read_cifar10(folder)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("keep", [0, 1, 50, 3000, -1])
def test_cut_short(folder, keep):
    file = folder / "cifar-10-batches-py" / "test_batch"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"test_batch cannot be read"):
        read_cifar10(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"data": np.zeros((4, 3071), np.uint8)}, r"shape \(n, 3072\).*\(4, 3071\)"),
        ({"data": np.zeros((4, 3072))}, "f8"),
        ({"data": None}, "NoneType"),
        ({"labels": [1, 2]}, "list of 4"),
        ({"labels": [1, 2, 3, "x"]}, "whole numbers"),
        ({"labels": [1, 2, 3, 10]}, "between 0 and 9"),
    ],
)
def test_wrong_content_is_named(folder, content, message):
    change(folder, **content)
    with pytest.raises(ValueError, match=message):
        read_cifar10(folder)


def test_missing_files_and_splits(folder):
    with pytest.raises(FileNotFoundError, match="data_batch_1"):
        read_cifar10(folder / "elsewhere", "train")
    with pytest.raises(ValueError, match="split"):
        read_cifar10(folder, "validation")


FINE = [0, 1, 1, 99]  # classes of CIFAR-100
COARSE = [4, 1, 1, 13]  # and of the 20 it groups them into


@pytest.fixture
def hundred(tmp_path):
    root = tmp_path / "cifar-100-python"
    root.mkdir()
    rng = np.random.default_rng(0)
    for name in ("train", "test"):
        content = {
            b"fine_labels": FINE,
            b"coarse_labels": COARSE,
            b"data": rng.integers(0, 256, (4, 3072), dtype=np.uint8),
            b"batch_label": b"testing batch 1 of 1",
        }
        (root / name).write_bytes(pickle.dumps(content, protocol=4))
    return tmp_path


def change_hundred(folder, **content):
    file = folder / "cifar-100-python" / "test"
    saved = pickle.loads(file.read_bytes())
    file.write_bytes(pickle.dumps(saved | {k.encode(): v for k, v in content.items()}, protocol=4))


@pytest.mark.parametrize("split", ["train", "test"])
def test_reads_cifar100(hundred, split):
    images, labels = read_cifar100(hundred, split)
    saved = pickle.loads((hundred / "cifar-100-python" / split).read_bytes())
    assert np.array_equal(images.reshape(4, -1), saved[b"data"])
    assert images.shape == (4, 3, 32, 32)
    assert labels.tolist() == FINE
    assert np.array_equal(read_cifar100(hundred / "cifar-100-python", split)[0], images)


def test_cifar100_refuses_code(hundred, capsys):
    change_hundred(hundred, extra=Hostile())
    with pytest.raises(ValueError, match=r"test.*print"):
        read_cifar100(hundred)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"fine_labels": COARSE, "coarse_labels": FINE}, "coarse_labels must lie between 0 and 19, found 99"),
        ({"fine_labels": [0, 1, 99, 1]}, "out of order"),
        ({"fine_labels": [0, 1, 1, 100]}, "between 0 and 99, found 100"),
        ({"fine_labels": None}, "list of 4 whole numbers under 'fine_labels'.*the file holds 'batch_label'"),
        ({"data": np.zeros((5, 3072), np.uint8)}, "list of 5"),
    ],
)
def test_wrong_labels_of_cifar100(hundred, content, message):
    change_hundred(hundred, **content)
    with pytest.raises(ValueError, match=message):
        read_cifar100(hundred)


def test_one_data_set_taken_for_the_other(folder, hundred):
    change(folder, labels=None, fine_labels=FINE)
    with pytest.raises(ValueError, match="under 'labels'; the file holds 'data', 'filenames', 'fine_labels'"):
        read_cifar10(folder)
    (hundred / "cifar-100-python" / "test").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(ValueError, match=r"expected a dictionary.*list"):
        read_cifar100(hundred)
    with pytest.raises(FileNotFoundError, match="train is missing"):
        read_cifar100(hundred / "elsewhere", "train")


# --- changed and hostile arrays ------------------------------------------------------------------------------------


class WithState:
    """Pickled as a call of NumPy's and a state of our choosing."""

    def __init__(self, call, arguments, state):
        self.parts = call, arguments, state

    def __reduce__(self):
        return self.parts


RECONSTRUCT = np.zeros(1).__reduce__()[0]


def made(dtype, shape, content, fortran=False):
    return WithState(RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, shape, dtype, fortran, content))


POINTERS = struct.pack("<4Q", *[0x4141414141414141] * 4)
U1 = (3, "|", None, None, None, -1, -1, 0)
HOSTILE = {
    "objects": made(np.dtype("O"), (4,), POINTERS),
    "a record that owns objects": made(
        WithState(np.dtype, ("V8", False, True), (3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, 1)),
        (4,),
        POINTERS,
    ),
    "bytes that own objects": made(WithState(np.dtype, ("u1", False, True), (*U1[:-1], 1)), (4, 3072), bytes(4 * 3072)),
    "other bytes": made(WithState(np.dtype, ("u1", False, True), (*U1[:5], 64, -1, 0)), (4, 3072), bytes(4 * 3072)),
    "too few bytes": made(np.dtype("u1"), (4, 3072), bytes(100)),
    "a negative shape": made(np.dtype("u1"), (-4, -3072), bytes(4 * 3072)),
    "no shape": made(np.dtype("u1"), None, bytes(4 * 3072)),
    "no bytes": made(np.dtype("u1"), (4, 3072), [0] * (4 * 3072)),
    "a state for a class": WithState(RECONSTRUCT, (np.ndarray, (0,), b"b"), (None, {"__setstate__": 1})),
}

CHANGES = """
import faulthandler, gc, random, sys
from pathlib import Path
import numpy as np
from shrinkstats.adapters.datasets import read_cifar10, read_cifar100

faulthandler.enable()
for name, reader in (("test_batch", read_cifar10), ("test", read_cifar100)):
    for folder in Path(sys.argv[1]).iterdir():
        file = folder / name
        if not file.is_file():
            continue
        true, (images, labels) = file.read_bytes(), reader(folder)
        start = true.index(images.tobytes())
        places = [i for i in range(len(true)) if not start <= i < start + images.size]
        read = 0
        for i in (*places, *range(start, start + images.size, 1000)):
            rng = random.Random(i)
            for value in {*(true[i] ^ (1 << bit) for bit in range(8)), *rng.sample(range(256), 2)} - {true[i]}:
                file.write_bytes(true[:i] + bytes([value]) + true[i + 1 :])
                try:
                    found = reader(folder)
                except (ValueError, OSError) as error:
                    assert str(file) in str(error), (i, value, error)
                    continue
                read += 1
                assert found[0].shape == images.shape and found[0].dtype == np.uint8, (i, value)
                assert (found[1] != labels).sum() <= 1, (i, value)  # a label of another class is one, too
                if (true[i], value) != (0x89, 0x88):  # C's order of the axes, taken for Fortran's
                    assert (found[0] != images).sum() == (start <= i < start + images.size), (i, value)
                del found
        gc.collect()
        print(folder.name, name, read)
        file.write_bytes(true)
"""


def as_python_2_wrote_it(content):
    """Protocol 2 with Python 2's texts, as in the archive."""
    saved = pickle.dumps({"<": 0}, protocol=2)[:2]  # the protocol alone

    def text(x):
        return b"U" + bytes([len(x)]) + x if len(x) < 256 else b"T" + struct.pack("<I", len(x)) + x

    def one(x):
        if isinstance(x, bytes):
            return text(x)
        if isinstance(x, int):
            return b"K" + bytes([x])
        if isinstance(x, list):
            return b"]q\x07(" + b"".join(map(one, x)) + b"e"
        shape = b"".join(b"M" + struct.pack("<H", n) for n in x.shape)
        return (
            b"cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85q\x03"
            b"U\x01bq\x04\x87q\x05Rq\x06(K\x01" + shape + b"\x86"
            b"cnumpy\ndtype\nq\x08U\x02u1K\x00K\x01\x87q\x09Rq\x0a"
            b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89" + text(x.tobytes()) + b"tb"
        )  # fmt: skip

    return saved + b"}q\x00(" + b"".join(one(k) + one(v) for k, v in content.items()) + b"u."


def test_the_archives_form(folder):
    file = folder / "cifar-10-batches-py" / "test_batch"
    saved = pickle.loads(file.read_bytes())
    wanted = read_cifar10(folder)
    file.write_bytes(as_python_2_wrote_it(saved))
    again = pickle.loads(file.read_bytes(), encoding="bytes")
    assert np.array_equal(again[b"data"], saved[b"data"])
    assert again[b"filenames"] == saved[b"filenames"]
    images, labels = read_cifar10(folder)
    assert np.array_equal(images, wanted[0])
    assert np.array_equal(labels, wanted[1])


def test_arrays_in_fortrans_order(folder):
    wanted = read_cifar10(folder)[0]
    data = np.asfortranarray(wanted.reshape(4, -1))
    change(folder, data=data)
    assert np.array_equal(read_cifar10(folder)[0], wanted)


def test_what_is_read_may_be_written_to(hundred):
    read_cifar100(hundred)[0][:] = 0


READ_EACH = """
import gc, sys
from pathlib import Path
from shrinkstats.adapters.datasets import read_cifar10

for folder in sorted(Path(sys.argv[1]).iterdir()):
    try:
        read_cifar10(folder)
    except ValueError as error:
        assert str(folder / "test_batch") in str(error)
        print(folder.name)
    gc.collect()  # what was made of the file goes
"""


def test_arrays_with_states_of_the_files_choosing(tmp_path):
    for name, data in HOSTILE.items():
        (tmp_path / name).mkdir()
        content = pickle.dumps({b"data": data, b"labels": [1] * 4}, protocol=4)
        (tmp_path / name / "test_batch").write_bytes(content)
    done = subprocess.run([sys.executable, "-c", READ_EACH, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == sorted(HOSTILE)


def test_a_changed_byte(tmp_path):
    rng = np.random.default_rng(0)
    data = rng.integers(0, 256, (2, 3072), dtype=np.uint8)
    ten = {b"batch_label": b"1 of 1", b"labels": [3, 7], b"data": data, b"filenames": [b"a.png", b"b.png"]}
    hundred = {b"fine_labels": [1, 99], b"coarse_labels": [1, 13], b"data": data}
    for name, content in (("test_batch", ten), ("test", hundred)):
        for kind, written in (("old", as_python_2_wrote_it(content)), ("new", pickle.dumps(content, protocol=4))):
            (tmp_path / kind).mkdir(exist_ok=True)
            (tmp_path / kind / name).write_bytes(written)
    done = subprocess.run([sys.executable, "-c", CHANGES, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == 12  # four files, and how many of their changes were read
