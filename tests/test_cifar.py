"""The CIFAR readers, on files as the archive has them and on files that are broken or hostile."""

import pickle

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
        ({"data": np.zeros((4, 3072))}, "float64"),
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
