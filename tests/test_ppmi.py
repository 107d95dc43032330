"""Volumes of the PPMI archive: the table, the common grid, broken files, and splits by subject."""

import csv
import gzip
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mutations import mutated

from shrinkstats.adapters.datasets import PPMI, cross_validation, split_subjects
from shrinkstats.adapters.datasets.archive import find_scans

HEADER = ["Image Data ID", "Subject", "Group", "Sex", "Age"]
SHAPE = (6, 7, 8)


@pytest.fixture
def nibabel():
    return pytest.importorskip("nibabel", reason="needs nibabel")


class Archive:
    """A folder and a table that grow together."""

    def __init__(self, root, nibabel):
        self.folder, self.table, self.nibabel = root / "images", root / "table.csv", nibabel
        self.folder.mkdir()
        self.rows = []

    def add(self, image, subject, group, values=None, affine=None, name=None):
        if values is None:
            values = np.random.default_rng(len(self.rows)).uniform(1, 2, SHAPE)
        path = self.folder / (name or f"{image}.nii.gz")
        path.parent.mkdir(parents=True, exist_ok=True)
        values = values.astype(np.float32) if values.dtype == np.float64 else values
        self.nibabel.save(self.nibabel.Nifti1Image(values, np.eye(4) if affine is None else affine), path)
        self.row(image, subject, group)
        return path

    def row(self, *cells):
        self.rows.append([*cells, "F", "60"])
        with self.table.open("w", newline="") as file:
            csv.writer(file, quoting=csv.QUOTE_ALL).writerows([HEADER, *self.rows])

    def open(self, **options):
        return PPMI(self.folder, self.table, **{"positive": "PD", **options})


@pytest.fixture
def archive(tmp_path, nibabel):
    return Archive(tmp_path, nibabel)


@pytest.fixture
def pair(archive):
    """One subject of each group."""
    archive.add("a", "1", "PD")
    archive.add("b", "2", "Control")
    return archive


def test_volumes_labels_and_subjects(pair):
    pair.add("c", "2", "Control")
    pair.add("d", "3", "SWEDD")
    data = pair.open(negative="Control", normalization=None)
    assert (len(data), data.shape, data.spacing) == (3, SHAPE, (1, 1, 1))
    volumes = data.load()
    assert volumes.labels.tolist() == data.labels.tolist() == [1, 0, 0]
    assert volumes.subjects.tolist() == data.subjects.tolist() == ["1", "2", "2"]
    assert volumes.problems == ()
    assert volumes.scans[0].columns["Age"] == "60"
    for k, (image, label) in enumerate(data):
        stored = pair.nibabel.load(data.scans[k].path).get_fdata(dtype=np.float32)
        assert np.array_equal(image[0], stored)
        assert np.array_equal(image, volumes.images[k])
        assert label == volumes.labels[k]
    assert len(pair.open()) == 4  # without `negative`, every other group
    assert pair.open(positive=["PD", "SWEDD"]).labels.tolist() == [1, 0, 0, 1]


@pytest.mark.parametrize("image", ["I363978", "363978"])
@pytest.mark.parametrize("name", ["PPMI_3107_MR_FA_Br_2013_S98889_I363978.nii", "3107/FA/2013/I363978/map.nii.gz"])
def test_files_as_the_archive_names_them(pair, image, name):
    path = pair.add(image, "3107", "PD", name=name)
    assert pair.open().scans[-1].path == path


def test_the_table_of_a_search(pair):
    text = pair.table.read_text()
    for old, new in (("Image Data ID", "Image ID"), ('"Subject"', '"Subject ID"'), ('"Group"', '"Research Group"')):
        text = text.replace(old, new)
    pair.table.write_text("\ufeff" + text, encoding="utf-8")
    assert pair.open().labels.tolist() == [1, 0]


def turned(rng, oblique):
    """An affine map whose axes are the body's in any order and direction, or turned by some angles."""
    axes = np.eye(3)[rng.permutation(3)] * rng.choice([-1, 1], 3)
    if oblique:
        axes = axes @ np.linalg.qr(np.eye(3) + 0.2 * rng.standard_normal((3, 3)))[0]
    affine = np.eye(4)
    affine[:3, :3] = axes * rng.uniform(0.9, 1.1, 3)
    affine[:3, 3] = rng.uniform(-50, 50, 3)
    return affine


@pytest.mark.parametrize("oblique", [False, True])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_ramp_in_space_stays_that_ramp(pair, seed, oblique):
    """Linear interpolation is exact for linear functions, wherever the axes of a scan point."""
    rng = np.random.default_rng(seed)
    affine, slope, size = turned(rng, oblique), rng.uniform(1, 2, 3), np.array([20, 22, 24])
    at = np.moveaxis(np.indices(size), 0, -1) @ affine[:3, :3].T + affine[:3, 3]
    pair.add("c", "3", "PD", at @ slope + 1000, affine)
    data = pair.open(normalization=None, shape=(6, 5, 4), spacing=(0.8, 0.7, 0.6))
    middle = affine[:3, :3] @ ((size - 1) / 2) + affine[:3, 3]
    points = middle + (np.moveaxis(np.indices(data.shape), 0, -1) - [2.5, 2, 1.5]) * data.spacing
    assert data[2][0][0] == pytest.approx(points @ slope + 1000, abs=1e-3)
    coarse = pair.open(normalization=None, shape=(3, 3, 3), spacing=(2, 2, 2))  # smoothed, which keeps ramps too
    points = middle + (np.moveaxis(np.indices((3, 3, 3)), 0, -1) - 1) * 2.0
    assert coarse[2][0][0] == pytest.approx(points @ slope + 1000, abs=2e-2)


def test_fine_stripes_do_not_become_coarse_ones(pair):
    stripes = np.full((41, 41, 41), 1.0)
    stripes[::2] = 3  # what every fourth voxel has
    pair.add("c", "3", "PD", stripes)
    image = pair.open(normalization=None, shape=(8, 8, 8), spacing=(4, 4, 4))[2][0][0]
    assert np.abs(image - 2).max() < 0.05


def test_the_common_grid_by_default_is_the_median(pair):
    pair.add("c", "3", "PD", np.ones((9, 9, 9)) + np.arange(9), np.diag([2, 2, 2, 1]))
    data = pair.open()
    assert (data.shape, data.spacing) == (SHAPE, (1, 1, 1))
    assert data.load().images.shape == (3, 1, *SHAPE)
    assert pair.open(spacing=(0.5, 1, 2)).shape == (12, 7, 4)


def test_what_the_grid_has_more_is_background(pair):
    image = pair.open(normalization=None, shape=(10, 9, 8))[0][0][0]
    inside = np.zeros((10, 9, 8), bool)
    inside[2:8, 1:8] = True
    assert np.array_equal(image > 0, inside)


def test_normalizations(pair):
    values = np.random.default_rng(5).uniform(1, 9, SHAPE)
    values[0] = 0  # background
    pair.add("c", "3", "PD", values)
    inside = np.float32(values[1:]).astype(float)
    zscore = pair.open()[2][0][0]
    assert zscore[1:] == pytest.approx((inside - inside.mean()) / inside.std(), abs=1e-5)
    low, high = np.percentile(inside, [1, 99])
    share = pair.open(normalization="percentiles")[2][0][0]
    assert share[1:] == pytest.approx(((inside - low) / (high - low)).clip(0, 1), abs=1e-6)
    assert not zscore[0].any()
    assert not share[0].any()
    with pytest.raises(ValueError, match="normalization must be one of"):
        pair.open(normalization="minmax")


def test_a_mask_in_space(pair, tmp_path):
    """Of another grid and direction than the scans: it is the place in space that counts."""
    mask = np.zeros((12, 14, 16), np.uint8)
    mask[:, :, 8:] = 1  # the mask's axes point left, front, up, in half millimetres
    affine = np.diag([-0.5, 0.5, 0.5, 1])
    affine[:3, 3] = [5.25, -0.25, -0.25]
    pair.nibabel.save(pair.nibabel.Nifti1Image(mask, affine), tmp_path / "mask.nii")
    image = pair.open(normalization=None, mask=tmp_path / "mask.nii")[0][0][0]
    assert not image[:, :, :4].any()
    assert image[:, :, 4:].all()
    with pytest.raises(FileNotFoundError, match=r"none.nii \(the mask\)"):
        pair.open(mask=tmp_path / "none.nii")
    affine[:3, 3] = 500
    pair.nibabel.save(pair.nibabel.Nifti1Image(mask, affine), tmp_path / "mask.nii")
    with pytest.raises(ValueError, match=r"a.nii.gz \(subject 1\): no voxel inside of the mask"):
        pair.open(mask=tmp_path / "mask.nii")[0]


def test_voxels_that_are_no_numbers_become_background(pair):
    values = np.random.default_rng(3).uniform(1, 2, SHAPE)
    values[2, 3, 4], values[0, 0, 0] = np.nan, np.inf
    path = pair.add("c", "3", "PD", values)
    volumes = pair.open().load()
    assert np.isfinite(volumes.images).all()
    assert volumes.images[2, 0, 2, 3, 4] == volumes.images[2, 0, 0, 0, 0] == 0
    (problem,) = volumes.problems
    assert problem.kept
    assert str(problem) == f"{path} (subject 3): 2 voxels are NaN or infinite; taken as background"


def cut(path):
    path.write_bytes(path.read_bytes()[:-200])


def cut_unpacked(path):
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-100]))


BROKEN = {
    "expected one volume with three axes, found shape (6, 7, 8, 5)": np.ones((*SHAPE, 5)),
    "expected one volume with three axes, found shape (6, 7)": np.ones(SHAPE[:2]),
    "expected real numbers, found complex64": np.ones(SHAPE, np.complex64),
    "no voxel has a value other than 0, NaN or infinity": np.full(SHAPE, np.nan),
    "the foreground has the value 3 throughout": np.full(SHAPE, 3.0),
    "cut short or damaged": cut,
    "cut short or damaged?": cut_unpacked,
    "cannot be read as NIfTI": lambda path: path.write_text("not an image"),
    "it is damaged": lambda path: path.write_bytes(gzip.compress(huge(path))),
}


def huge(path):
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[40:56] = np.array([3, 30000, 30000, 30000, 1, 1, 1, 1], "<i2").tobytes()
    return content


@pytest.mark.parametrize("reason", BROKEN)
def test_a_broken_file_is_named_and_does_not_lose_the_others(pair, reason):
    what = BROKEN[reason]
    path = pair.add("c", "33", "PD", None if callable(what) else what)
    if callable(what):
        what(path)
    data = pair.open()
    for index in range(2, len(data)):  # where the header is sound
        with pytest.raises(ValueError, match=r"c.nii.gz \(subject 33\)"):
            data[index]
    steps = []
    volumes = data.load(lambda *step: steps.append(step))
    assert volumes.labels.tolist() == [1, 0]
    assert np.isfinite(volumes.images).all()
    assert steps == [(k + 1, len(data)) for k in range(len(data))]
    (problem,) = volumes.problems
    assert (problem.path, problem.subject, problem.kept) == (path, "33", False)
    assert reason in str(problem)


def test_a_series_of_one_volume_is_a_volume(pair):
    pair.add("c", "3", "PD", np.random.default_rng(1).uniform(1, 2, (*SHAPE, 1)))
    assert pair.open()[2][0].shape == (1, *SHAPE)


def test_a_file_that_vanishes(pair):
    pair.add("c", "3", "PD")
    data = pair.open()
    data.scans[2].path.unlink()
    with pytest.raises(FileNotFoundError, match=r"c.nii.gz \(subject 3\): the file is missing"):
        data[2]
    assert len(data.load().labels) == 2


def test_rows_that_will_not_do(pair):
    pair.row("gone", "3", "PD")
    pair.add("nogroup", "4", "")
    pair.add("nobody", "", "PD")
    pair.row("a", "5", "PD")
    pair.row("", "6", "PD")
    pair.add("e", "7", "PD")
    pair.add("f", "7", "Control")
    stray = pair.folder / "stray.nii"
    stray.write_bytes(b"")
    for name in ("one", "two"):
        pair.add("I99", "8", "PD", name=f"I99/{name}.nii")
    data = pair.open()
    assert [scan.image for scan in data.scans] == ["a", "b"]
    told = "\n".join(map(str, data.problems))
    for words in (
        "(subject 3): row 4: the file of image gone is missing",
        "nogroup.nii.gz (subject 4): row 5: the subject has no group",
        "nobody.nii.gz (subject ?): row 6: image nobody has no subject",
        "(subject 5): row 7: image a is in the table already",
        "(subject 6): row 8 has no Image Data ID",
        "e.nii.gz (subject 7): the subject's images are in the groups Control, PD",
        "f.nii.gz (subject 7): the subject's images are in",
        "(subject 8): row 11: image I99 may be I99/one.nii, I99/two.nii; choose by pattern",
        "stray.nii (subject ?): no row of the table names this file",
    ):
        assert words in told
    assert pair.open(pattern="[!t]*").scans[-1].path.name == "one.nii"


def test_one_class_only(pair):
    with pytest.raises(ValueError, match="no image in the group Parkinson; there is Control, PD"):
        pair.open(positive="Parkinson")
    with pytest.raises(ValueError, match="expected images of two classes, found 2 images, all in Control, PD"):
        pair.open(positive=["PD", "Control"])
    with pytest.raises(ValueError, match="share PD"):
        pair.open(negative="PD")
    pair.open().scans[0].path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"all in Control; 1 were left out, as .*a.nii.gz \(subject 1\)"):
        pair.open()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected the column Image Data ID, Subject, Group, found nothing"),
        (b"Image Data ID;Subject;Group\n", "found Image Data ID;Subject;Group"),
        (b"Image Data ID,Subject,Group\n", "no rows"),
        (b"Image Data ID,Subject,Group\n\xff,1,PD\n", "not UTF-8"),
        (b'Image Data ID,Subject,Group\n"a"b,1,PD\n', "not a table"),
        (b"Image Data ID,Subject,Group\na,1\nb\n", "found 0 images"),
    ],
)
def test_tables_that_will_not_do(pair, content, message):
    pair.table.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        pair.open()


def test_missing_folder_and_table(pair, tmp_path):
    pair.table.unlink()
    with pytest.raises(FileNotFoundError, match=r"the table .*table.csv is missing"):
        pair.open()
    with pytest.raises(FileNotFoundError, match=r"the folder .*nowhere is missing"):
        PPMI(tmp_path / "nowhere", tmp_path, positive="PD")


def test_two_hundred_damaged_files(pair):
    """Of volumes: each is read or named, and none keeps the sound ones from being read."""
    rng = np.random.default_rng(0)
    packed, plain = (pair.add(name, "3", "PD", name=name) for name in ("sound.nii.gz", "sound.nii"))
    sound = [(path.read_bytes(), path.name.removeprefix("sound")) for path in (packed, plain, plain)]
    for k in range(200):
        content, suffix = sound[k % 3]
        (pair.folder / f"{k}{suffix}").write_bytes(mutated(content, rng, head=348))
        pair.rows.append([f"{k}", f"subject {k}", "PD" if k % 2 else "Control", "F", "60"])
    pair.row("last", "nobody", "PD")
    volumes = pair.open(shape=SHAPE, spacing=(1, 1, 1)).load()
    assert [scan.image for scan in volumes.scans[:2]] == ["a", "b"]
    assert np.isfinite(volumes.images).all()
    read = {scan.path.name for scan in volumes.scans}
    named = {problem.path.name for problem in volumes.problems if not problem.kept}
    assert len(read | named) == 200 + 5  # sound ones, and the table, whose last row has no file
    assert not read & named
    assert 20 < len(read) < 180  # neither was damage without effect, nor was everything refused


def test_two_hundred_damaged_tables(pair):
    rng = np.random.default_rng(0)
    pair.rows += [[f"{k}", f"{k}", "PD", "F", "60"] for k in range(30)]
    pair.row("last", "nobody", "PD")
    sound, refused = pair.table.read_bytes(), 0
    for _ in range(200):
        pair.table.write_bytes(mutated(sound, rng, head=60))
        try:
            find_scans(pair.folder, pair.table)
        except ValueError as error:
            refused += "table" in str(error)
            continue
        with suppress(ValueError):  # of groups and classes
            pair.open()
    assert 20 < refused < 180


people = st.lists(st.integers(1, 3), min_size=6, max_size=30)


def drawn(images, seed):
    """Subjects with some images each, of two classes, in random order."""
    rng = np.random.default_rng(seed)
    subjects = np.repeat([f"s{k}" for k in range(len(images))], images)
    labels = np.repeat(np.arange(len(images)) % 2, images)
    order = rng.permutation(len(subjects))
    return subjects[order], labels[order]


@given(people, st.integers(0, 2**32 - 1))
def test_splits_keep_subjects_together_and_classes_apart(images, seed):
    subjects, labels = drawn(images, seed)
    parts = split_subjects(subjects, labels, (0.6, 0.2, 0.2), seed=seed)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(subjects)))
    whose = [set(subjects[part]) for part in parts]
    assert sum(map(len, whose)) == len(set(subjects))
    for kind in (0, 1):
        total = len(set(subjects[labels == kind]))
        for part, share in zip(parts, (0.6, 0.2, 0.2), strict=True):
            here = len(set(subjects[part][labels[part] == kind]))
            assert here >= 1
            assert abs(here - share * total) < 1.4  # rounding, and one at least
    order = np.random.default_rng(1).permutation(len(subjects))
    again = split_subjects(subjects[order], labels[order], (0.6, 0.2, 0.2), seed=seed)
    assert [set(subjects[order][part]) for part in again] == whose


@given(people, st.integers(2, 3), st.integers(0, 2**32 - 1))
def test_every_subject_is_tested_once(images, folds, seed):
    subjects, labels = drawn(images, seed)
    parts = cross_validation(subjects, labels, folds, seed=seed)
    assert np.array_equal(np.sort(np.concatenate([test for _, test in parts])), np.arange(len(subjects)))
    sizes = []
    for train, test in parts:
        assert not set(subjects[train]) & set(subjects[test])
        assert len(train) + len(test) == len(subjects)
        sizes.append([len(set(subjects[test][labels[test] == kind])) for kind in (0, 1)])
    assert np.ptp(sizes, axis=0).max() <= 1
    assert np.ptp(np.sum(sizes, axis=1)) <= 1


def test_seeds_choose_other_subjects():
    subjects, labels = np.arange(40), np.arange(40) % 2
    first, again, other = (split_subjects(subjects, labels, seed=seed)[0].tolist() for seed in (0, 0, 1))
    assert first == again != other
    assert (
        cross_validation(subjects, labels, seed=0)[0][1].tolist()
        != cross_validation(subjects, labels, seed=1)[0][1].tolist()
    )


def test_splits_that_cannot_be():
    subjects, labels = list("aabbcd"), [0, 0, 1, 1, 0, 1]
    with pytest.raises(ValueError, match="class 0 has 2 subjects, too few for 3 parts"):
        split_subjects(subjects, labels)
    with pytest.raises(ValueError, match="class 0 has 2 subjects, too few for 5"):
        cross_validation(subjects, labels)
    with pytest.raises(ValueError, match="subject a has images of several classes"):
        split_subjects(subjects, [0, 1, 1, 1, 0, 1], (0.5, 0.5))
    with pytest.raises(ValueError, match=r"two classes at least, found \[1\]"):
        cross_validation(subjects, [1] * 6, 2)
    with pytest.raises(ValueError, match="sum to 1"):
        split_subjects(subjects, labels, (0.5, 0.4))
    with pytest.raises(ValueError, match="folds must be 2"):
        cross_validation(subjects, labels, 1)
    with pytest.raises(ValueError, match=r"shapes \(6,\), \(5,\)"):
        split_subjects(subjects, labels[:5])
