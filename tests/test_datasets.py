"""Corrupted data sets on disk: CIFAR-10-C, CIFAR-100-C, ImageNet-C, and sets mixed into one."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shrinkstats.adapters.datasets import ImageNetC, MixedSet, read_cifar10c, read_cifar100c

READERS = {10: read_cifar10c, 100: read_cifar100c}


@pytest.fixture(params=READERS)
def classes(request):
    return request.param


@pytest.fixture
def folder(tmp_path, classes):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "labels.npy", np.tile(rng.integers(0, classes, 4).astype(np.uint8), 5))
    np.save(tmp_path / "fog.npy", rng.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8))
    return tmp_path


def test_reads_one_severity(folder, classes):
    saved, labels = np.load(folder / "fog.npy"), np.load(folder / "labels.npy")
    for severity in (1, 2, 3, 4, 5):
        images, read = READERS[classes](folder, "fog", severity)
        part = slice(4 * severity - 4, 4 * severity)
        assert np.array_equal(images, saved[part].transpose(0, 3, 1, 2))
        assert read.dtype == np.int64
        assert np.array_equal(read, labels[part])


def test_images_stay_in_the_file(folder, classes):
    images, _ = READERS[classes](folder, "fog", 2)
    base = images
    while not isinstance(base, np.memmap) and base.base is not None:
        base = base.base
    assert isinstance(base, np.memmap) or type(base).__name__ == "mmap"
    assert not images.flags.writeable


@pytest.mark.parametrize("file", ["fog", "labels"])
@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_cut_short(folder, classes, file, keep):
    path = folder / f"{file}.npy"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=f"{file}.npy"):
        READERS[classes](folder, "fog", 1)


class Hostile:
    def __reduce__(self):
        return (print, ("this must not run",))


@pytest.mark.parametrize("file", ["fog", "labels"])
def test_objects_are_refused(folder, classes, file, capsys):
    np.save(folder / f"{file}.npy", np.array([Hostile()], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=f"{file}.npy"):
        READERS[classes](folder, "fog", 1)
    (folder / f"{file}.npy").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(ValueError, match=f"{file}.npy"):
        READERS[classes](folder, "fog", 1)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("fog", np.zeros((20, 3, 32, 32), np.uint8), r"shape \(5 n, 32, 32, 3\), found uint8 of shape \(20, 3"),
        ("fog", np.zeros((21, 32, 32, 3), np.uint8), r"\(21, 32, 32, 3\)"),
        ("fog", np.zeros((20, 32, 32, 3)), "float64"),
        ("fog", np.zeros((0, 32, 32, 3), np.uint8), r"\(0, 32"),
        ("fog", np.zeros((15, 32, 32, 3), np.uint8), r"labels.npy: expected 15 whole numbers.*\(20,\)"),
        ("labels", np.zeros(20), "float64"),
        ("labels", np.zeros((20, 1), int), r"\(20, 1\)"),
        ("labels", np.full(20, -1), "found -1"),
        ("labels", np.full(20, 100), "found 100"),
        ("labels", np.arange(20) % 3, "differ between severities.*out of order"),
    ],
)
def test_wrong_content_is_named(folder, classes, file, content, message):
    np.save(folder / f"{file}.npy", content)
    with pytest.raises(ValueError, match=message):
        READERS[classes](folder, "fog", 1)


def test_labels_of_the_other_data_set(tmp_path):
    np.lib.format.open_memmap(tmp_path / "fog.npy", mode="w+", dtype=np.uint8, shape=(50_000, 32, 32, 3))
    np.save(tmp_path / "labels.npy", np.arange(50_000) % 10)
    assert len(read_cifar10c(tmp_path, "fog", 5)[1]) == 10_000
    with pytest.raises(ValueError, match="expected 100 classes, found 10"):
        read_cifar100c(tmp_path, "fog", 5)


def test_missing_files_and_severities(folder, classes):
    with pytest.raises(FileNotFoundError, match=r"snow.npy is missing; there is fog"):
        READERS[classes](folder, "snow", 1)
    with pytest.raises(ValueError, match="severity must be"):
        READERS[classes](folder, "fog", 0)
    (folder / "labels.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"labels\.npy"):
        READERS[classes](folder, "fog", 1)


WNIDS = ("n01440764", "n01443537")


@pytest.fixture
def imagenet(tmp_path):
    """Two corruptions, two severities, two classes, two images of one colour each."""
    image = pytest.importorskip("PIL.Image", reason="needs Pillow")
    for a, corruption in enumerate(("fog", "snow")):
        for severity in (1, 2):
            for b, wnid in enumerate(WNIDS):
                path = tmp_path / corruption / str(severity) / wnid
                path.mkdir(parents=True)
                (path / "notes.txt").write_text("not an image")
                for c in range(2):
                    colour = (100 * a, 100 * severity, 100 * b + 50 * c)
                    image.new("RGB", (8, 6), colour).save(path / f"ILSVRC2012_val_0000000{c}.JPEG", quality=100)
    return tmp_path


def test_imagenet_c_in_order(imagenet):
    data = ImageNetC(imagenet, ("fog", "snow"), (1, 2), classes=WNIDS)
    assert len(data) == 16
    places = [data.sample(i).path.relative_to(imagenet).as_posix() for i in range(16)]
    assert places == sorted(places)
    assert [data.sample(i).label for i in range(16)] == [0, 0, 1, 1] * 4
    for (image, label), colour in zip(
        data,
        [(100 * a, 100 * s, 100 * b + 50 * c) for a in (0, 1) for s in (1, 2) for b in (0, 1) for c in (0, 1)],
        strict=True,
    ):
        assert image.shape == (3, 6, 8)
        assert image.dtype == np.uint8
        assert np.abs(image.astype(int) - np.array(colour)[:, None, None]).max() <= 3
        assert label == (colour[2] >= 100)


def test_labels_follow_the_classes_given(imagenet):
    data = ImageNetC(imagenet, ("fog",), (1,), classes=("another", WNIDS[1], WNIDS[0]))
    assert [label for _, label in data] == [2, 2, 1, 1]


def test_the_mixed_imagenet_c(imagenet):
    plain = ImageNetC(imagenet, ("fog", "snow"), (1, 2), classes=WNIDS)
    mixed = ImageNetC(imagenet, ("fog", "snow"), (1, 2), classes=WNIDS, seed=3)
    again = ImageNetC(imagenet, ("fog", "snow"), (1, 2), classes=WNIDS, seed=3)
    order = [mixed.sample(i) for i in range(16)]
    assert order == [again.sample(i) for i in range(16)]
    assert sorted(order) == [plain.sample(i) for i in range(16)]
    assert order != sorted(order)
    with pytest.raises(IndexError):
        mixed[16]


def test_broken_images_are_named(imagenet):
    broken = imagenet / "fog" / "1" / WNIDS[0] / "ILSVRC2012_val_00000001.JPEG"
    broken.write_bytes(broken.read_bytes()[:200])
    data = ImageNetC(imagenet, ("fog",), (1,), classes=WNIDS)
    with pytest.raises(ValueError, match=r"00000001.JPEG cannot be read as a JPEG"):
        list(data)
    pytest.importorskip("PIL.Image").new("RGB", (8, 6)).save(broken, "PNG")
    with pytest.raises(ValueError, match=r"00000001.JPEG cannot be read as a JPEG"):
        list(data)


def test_folders_that_will_not_do(imagenet):
    with pytest.raises(ValueError, match=r"1000 folders of classes, found 2; for a part pass classes"):
        ImageNetC(imagenet, ("fog",), (1,))
    with pytest.raises(ValueError, match=f"as in {WNIDS[1]}"):
        ImageNetC(imagenet, ("fog",), (1,), classes=WNIDS[:1])
    with pytest.raises(FileNotFoundError, match="frost"):
        ImageNetC(imagenet, ("fog", "frost"), (1,), classes=WNIDS)
    with pytest.raises(ValueError, match="at least one"):
        ImageNetC(imagenet, (), (1,), classes=WNIDS)
    (imagenet / "fog" / "3").mkdir()
    with pytest.raises(ValueError, match="no images"):
        ImageNetC(imagenet, ("fog",), (3,), classes=WNIDS)


def test_a_thousand_classes_are_found(tmp_path):
    names = [f"n{number:08d}" for number in range(1000)]
    for severity in "12":
        for name in names:
            (tmp_path / "fog" / severity / name).mkdir(parents=True)
    (tmp_path / "fog" / "1" / names[7] / "a.jpeg").touch()
    data = ImageNetC(tmp_path, ("fog",), (1, 2))
    assert data.classes == tuple(names)
    assert data.sample(0).label == 7
    (tmp_path / "fog" / "2" / names[3]).rmdir()
    with pytest.raises(ValueError, match=f"2: folders of classes differ.*{names[3]}"):
        ImageNetC(tmp_path, ("fog",), (1, 2))


@given(st.lists(st.integers(0, 20), min_size=1, max_size=4), st.integers(0, 2**32))
def test_a_mixed_set_is_a_permutation(sizes, seed):
    sets = {f"set {k}": (np.arange(size)[:, None] + 100 * k, np.arange(size) + 100 * k) for k, size in enumerate(sizes)}
    mixed = MixedSet(sets, seed=seed)
    images, labels, names = mixed[:]
    assert len(mixed) == len(labels) == sum(sizes)
    assert np.array_equal(images[:, 0], labels)
    assert [f"set {label // 100}" for label in labels] == names.tolist()
    assert sorted(labels) == sorted(np.concatenate([labels for _, labels in sets.values()]))
    places = np.arange(len(mixed))[::-2]
    assert np.array_equal(mixed[places].labels, labels[places])
    assert np.array_equal(MixedSet(sets, seed=seed)[:].labels, labels)


def test_every_batch_of_a_mixed_set_is_mixed():
    sets = {name: (np.zeros((1000, 1)), np.zeros(1000, int)) for name in "abcd"}
    mixed = MixedSet(sets)
    # Each name fills a quarter of a batch of 400: hypergeometric, standard deviation 8.2.
    for start in range(0, 4000, 400):
        counts = np.unique(mixed[start : start + 400].names, return_counts=True)[1]
        assert np.abs(counts - 100).max() < 5 * np.sqrt(400 * 0.25 * 0.75 * 3600 / 3999)
    assert not np.array_equal(mixed[:].names, MixedSet(sets, seed=1)[:].names)


def test_sets_that_cannot_be_mixed():
    images, labels = np.zeros((3, 2), np.uint8), np.zeros(3, int)
    with pytest.raises(ValueError, match="at least one set"):
        MixedSet({})
    with pytest.raises(ValueError, match="b: 3 images and 2 labels"):
        MixedSet({"a": (images, labels), "b": (images, labels[:2])})
    with pytest.raises(ValueError, match="images must be alike"):
        MixedSet({"a": (images, labels), "b": (images.astype(float), labels)})
