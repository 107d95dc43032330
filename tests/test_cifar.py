"""The CIFAR-10 reader, on files as the archive has them and on files that are broken or hostile."""

import pickle

import numpy as np
import pytest

from shrinkstats.adapters.datasets import read_cifar10


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
