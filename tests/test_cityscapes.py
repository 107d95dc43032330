"""Street scenes in the layout of Cityscapes: ids, sizes, augmentation, broken files."""

import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mutations import mutated

from shrinkstats.adapters.datasets import Augmentation, Cityscapes
from shrinkstats.adapters.datasets.cityscapes import TRAIN_IDS, VOID, train_ids

Image = pytest.importorskip("PIL.Image", reason="needs Pillow")

# The table of the official scripts, as (labelId, trainId): ids that evaluation ignores are 255 there.
OFFICIAL = dict.fromkeys(range(34), 255) | {
    7: 0,
    8: 1,
    11: 2,
    12: 3,
    13: 4,
    17: 5,
    19: 6,
    20: 7,
    21: 8,
    22: 9,
    23: 10,
    24: 11,
    25: 12,
    26: 13,
    27: 14,
    28: 15,
    31: 16,
    32: 17,
    33: 18,
}


def scene(folder, city, frame, image, ids, split="train"):
    paths = []
    for kind, suffix, picture in (("leftImg8bit", "leftImg8bit", image), ("gtFine", "gtFine_labelIds", ids)):
        path = folder / kind / split / city / f"{city}_000000_{frame:06}_{suffix}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
        paths.append(path)
    return paths


def random_scene(seed, size=(12, 20)):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (*size, 3), dtype=np.uint8), rng.integers(0, 34, size, dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    for k, city in enumerate(("ulm", "bonn", "ulm")):
        scene(tmp_path, city, k, *random_scene(k))
    return tmp_path


def test_scenes_in_order_with_train_ids(folder):
    data = Cityscapes(folder)
    assert len(data) == 3
    for (image, labels), seed in zip(data, (1, 0, 2), strict=True):
        expected, ids = random_scene(seed)
        assert image.dtype == np.uint8
        assert np.array_equal(image, expected.transpose(2, 0, 1))
        assert labels.dtype == np.int64
        assert labels.tolist() == [[OFFICIAL[k] for k in row] for row in ids.tolist()]


def test_the_nineteen_classes():
    classes = Cityscapes.categories
    assert len(classes) == len({category.colour for category in classes}) == 19
    assert [k for k in range(256) if TRAIN_IDS[k] != VOID] == [category.label_id for category in classes]
    assert (classes[0].name, classes[13].name, classes[18].name) == ("road", "car", "bicycle")


def test_another_size(folder):
    image, labels = Cityscapes(folder, size=(6, 10))[1]
    pixels, ids = (Image.fromarray(part) for part in random_scene(0))
    assert np.array_equal(image, np.asarray(pixels.resize((10, 6), Image.Resampling.BILINEAR)).transpose(2, 0, 1))
    assert np.array_equal(labels, TRAIN_IDS[np.asarray(ids.resize((10, 6), Image.Resampling.NEAREST))])


def test_the_augmentation_depends_on_seed_epoch_and_index(folder):
    def images(seed, epoch):
        augmentation = Augmentation(crop=(8, 8))
        return [image.tolist() for image, _ in Cityscapes(folder, augmentation=augmentation, seed=seed).at(epoch)]

    assert images(0, 0) == images(0, 0)
    assert images(0, 0) != images(0, 1)
    assert images(0, 0) != images(1, 0)
    data = Cityscapes(folder, augmentation=Augmentation(crop=(8, 8)))
    assert np.array_equal(data[-1][0], data[2][0])
    assert np.array_equal(Cityscapes(folder).at(4)[0][0], Cityscapes(folder)[0][0])


@given(
    st.tuples(st.integers(1, 30), st.integers(1, 30)),
    st.tuples(st.integers(1, 30), st.integers(1, 30)),
    st.floats(0.1, 4),
    st.integers(0, 2**32 - 1),
)
def test_image_and_labels_move_together(size, crop, scale, seed):
    """A scene whose colour is its label, in two halves: wherever they end, they end together."""
    labels = np.zeros(size, np.uint8)
    labels[:, size[1] // 2 :] = 18
    image = np.repeat(labels[..., None] * 10, 3, axis=2)
    augmentation = Augmentation(crop=crop, scale=(scale, scale))
    shown, known = augmentation(image, labels, np.random.default_rng(seed))
    assert shown.shape == (*crop, 3)
    assert known.shape == crop
    assert set(np.unique(known)) <= {0, 18, VOID}
    border = (shown == (124, 116, 104)).all(2)
    assert border[known == VOID].all()
    # Where the scene covers the crop, nothing is void; and it is covered in no more than the scene's part.
    if scale * min(size[0] / crop[0], size[1] / crop[1]) > 1.5:
        assert (known != VOID).all()
    inside = known != VOID
    smooth = np.zeros_like(inside)  # neighbours alike: no interpolation across the halves
    smooth[:, 2:-2] = inside[:, 2:-2] & (known[:, 2:-2] == known[:, :-4]) & (known[:, 2:-2] == known[:, 4:])
    if scale <= 1:
        assert np.array_equal(shown[smooth][:, 0], 10 * known[smooth])


def test_plain_crops_and_mirror_images():
    image, labels = random_scene(0)
    labels = np.minimum(labels, 18)
    never, always = (Augmentation(crop=(12, 20), scale=(1, 1), flip=flip) for flip in (0, 1))
    rng = np.random.default_rng(0)
    assert np.array_equal(never(image, labels, rng)[0], image)
    assert np.array_equal(always(image, labels, rng)[0], image[:, ::-1])
    assert np.array_equal(always(image, labels, rng)[1], labels[:, ::-1])
    # Every place is drawn: 3 rows and 5 columns that a window of 10 x 16 may begin at.
    windows = {Augmentation(crop=(10, 16), scale=(1, 1), flip=0)(image, labels, rng)[1].tobytes() for _ in range(300)}
    assert len(windows) == 15


@pytest.mark.parametrize(
    "options", [{"crop": (0, 5)}, {"crop": (5,)}, {"scale": (2, 1)}, {"scale": (0, 1)}, {"flip": 1.5}]
)
def test_augmentations_that_cannot_be(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} must"):
        Augmentation(**{"crop": (4, 4), **options})


def test_missing_annotations_are_named(folder):
    missing = folder / "gtFine" / "train" / "ulm" / "ulm_000000_000002_gtFine_labelIds.png"
    missing.unlink()
    with pytest.raises(FileNotFoundError, match=f"1 annotations are missing: {missing}"):
        Cityscapes(folder)


def test_missing_folders_are_named(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"leftImg8bit.val is missing; .*leftImg8bit has train"):
        Cityscapes(folder, "val")
    with pytest.raises(FileNotFoundError, match="has nothing"):
        Cityscapes(tmp_path / "nowhere")
    for kind in ("leftImg8bit", "gtFine"):
        (folder / kind / "val").mkdir()
    with pytest.raises(ValueError, match="no images in"):
        Cityscapes(folder, "val")


def test_unequal_sizes_are_named(folder):
    image, ids = random_scene(0, (10, 20))
    scene(folder, "ulm", 7, image, ids)
    with pytest.raises(ValueError, match=r"1 images are not of the size \(12, 20\).*ulm_000000_000007.*give a size"):
        Cityscapes(folder)
    assert Cityscapes(folder, size=(4, 4))[3][0].shape == (3, 4, 4)
    assert Cityscapes(folder, augmentation=Augmentation((4, 4)))[3][0].shape == (3, 4, 4)
    scene(folder, "ulm", 7, image, ids[:, :-1])
    with pytest.raises(ValueError, match=r"000007_gtFine_labelIds.png has 10x19 pixels, its image has 10x20"):
        Cityscapes(folder, size=(4, 4))


def test_unknown_ids_are_named(folder):
    image, ids = random_scene(0)
    ids[0, :2] = 34, 255
    _, path = scene(folder, "ulm", 0, image, ids)
    data = Cityscapes(folder)
    with pytest.raises(ValueError, match=r"000000_gtFine_labelIds.png: expected labelIds from 0 to 33, found 34, 255"):
        data[1]
    data[0]
    Image.fromarray(image).save(path)
    with pytest.raises(ValueError, match=r"labelIds.png: expected one id of 8 bits a pixel, found .* mode RGB"):
        train_ids(path)


def test_other_formats_are_refused(folder):
    path = folder / "leftImg8bit" / "train" / "ulm" / "ulm_000000_000000_leftImg8bit.png"
    Image.fromarray(random_scene(0)[0]).save(path, "JPEG")
    with pytest.raises(ValueError, match="cannot be read as a PNG"):
        Cityscapes(folder)


def with_damaged_chunk(content, rng):
    """A PNG file with a chunk that is damaged, but says by its check sum that it is not."""
    chunks, start = [], 8
    while start < len(content):
        length = int.from_bytes(content[start : start + 4], "big")
        chunks.append((content[start + 4 : start + 8], content[start + 8 : start + 8 + length]))
        start += length + 12
    k = rng.integers(len(chunks) - 1)
    chunks[k] = chunks[k][0], mutated(chunks[k][1], rng, head=13)
    parts = [
        len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big") for kind, data in chunks
    ]
    return content[:8] + b"".join(parts)


def test_two_hundred_damaged_files(tmp_path):
    """Each is read, or refused by name."""
    rng = np.random.default_rng(0)
    paths = scene(tmp_path, "ulm", 0, *random_scene(0, (24, 40)))
    sound = [path.read_bytes() for path in paths]
    refused = read = 0
    for k in range(200):
        content = sound[k % 2]
        damaged = with_damaged_chunk(content, rng) if k % 4 < 2 else mutated(content, rng, head=60)
        paths[k % 2].write_bytes(damaged)
        try:
            image, labels = Cityscapes(tmp_path, size=(12, 20))[0]
        except ValueError as error:
            refused += any(path.name in str(error) for path in paths)
        else:
            read += 1
            assert image.shape == (3, 12, 20)
            assert set(np.unique(labels)) <= {*range(19), VOID}
        paths[k % 2].write_bytes(content)
    assert refused + read == 200
    assert refused > 100
    assert read > 0
