"""One bit flipped, or the end cut off: every reader refuses the file by name, or gives what it gave before."""

import gzip
import json

import numpy as np
import pytest

import shrinkstats
from shrinkstats import Moments
from shrinkstats.adapters.commands.arrays import read

FLIPS = 60


def damaged(content, rng):
    """Versions of a file with one bit flipped, cut short, and longer than it was."""
    for place in rng.choice(8 * len(content), min(FLIPS, 8 * len(content)), replace=False):
        data = bytearray(content)
        data[place // 8] ^= 1 << place % 8
        yield bytes(data)
    for end in rng.integers(0, len(content), 6):
        yield content[:end]
    yield content + b"x"


def named(path, error):
    assert path.name in str(error)


def check(path, load, *, harmless=0.5):
    """No damage passes unnoticed; of an undamaged file the reader gives something that compares."""
    content, expected, quiet = path.read_bytes(), load(path), 0
    versions = list(damaged(content, np.random.default_rng(0)))
    for version in versions:
        path.write_bytes(version)
        try:
            found = load(path)
        except (ValueError, OSError) as error:
            named(path, error)
        else:
            assert found == expected
            quiet += 1
    assert quiet <= harmless * len(versions)
    path.write_bytes(content)
    assert load(path) == expected


def numbers():
    return np.random.default_rng(1).normal(size=(6, 5, 4)).astype("float32")


@pytest.mark.core
def test_moments(tmp_path):
    def load(path):
        m = Moments.load(path)
        return m.count, m.samples, m.mean.tobytes(), m.m2.tobytes(), m.sample_m2.tobytes()

    shrinkstats.moments(numbers()).save(tmp_path / "m.npz")
    check(tmp_path / "m.npz", load)


@pytest.mark.core
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_archives(save, tmp_path):
    save(tmp_path / "x.npz", x=numbers())
    check(tmp_path / "x.npz", lambda path: (lambda x: (x.dtype, x.shape, x.tobytes()))(read(path).values))


@pytest.mark.core
def test_arrays_in_files_without_a_checksum(tmp_path):
    """What shape and length can tell is told; that one of the numbers is another cannot be."""
    path = tmp_path / "x.npy"
    np.save(path, numbers())
    content = path.read_bytes()
    for version in (content[:-1], content + b"x", content.replace(b"(6, 5, 4)", b"(6, 5, 3)")):
        path.write_bytes(version)
        with pytest.raises(ValueError, match=r"x\.npy"):
            read(path)


def test_volumes(tmp_path):
    nibabel = pytest.importorskip("nibabel", reason="needs nibabel")
    from shrinkstats.adapters.datasets.nifti import read_nifti

    def load(path):
        try:
            return read_nifti(path).values.tobytes()
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    for dtype in (np.float32, np.int16):
        path = tmp_path / f"{np.dtype(dtype)}.nii.gz"
        nibabel.save(nibabel.Nifti1Image((100 * numbers()).astype(dtype), np.eye(4)), path)
        check(path, load, harmless=0.2)
        # Longer than the header says, in the packed stream and plain.
        path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + bytes(10_000)))
        with pytest.raises(ValueError, match="there are more"):
            load(path)


def test_scenes(tmp_path):
    image = pytest.importorskip("PIL.Image", reason="needs Pillow")
    from shrinkstats.adapters.datasets.cityscapes import train_ids

    path = tmp_path / "labels.png"
    image.fromarray(np.random.default_rng(0).integers(0, 34, (12, 20), dtype=np.uint8)).save(path)
    check(path, lambda path: train_ids(path).tobytes(), harmless=0.1)
    content, right = path.read_bytes(), train_ids(path).tobytes()
    for bit in range(8 * content.index(b"IDAT"), 8 * content.index(b"IEND")):  # Pillow lets very few of them pass
        damaged_content = bytearray(content)
        damaged_content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged_content)
        try:
            read = train_ids(path).tobytes()
        except (ValueError, OSError):
            continue
        assert read == right


def test_reports(tmp_path):
    from shrinkstats.estimators import Stein
    from shrinkstats.theory import DominanceReport, verify_dominance

    path = tmp_path / "run.json"
    verify_dominance(Stein(), dim=6, n=8, radii=[0, 2], budget=8192, progress=False, path=path)
    check(path, lambda path: DominanceReport.load(path).to_json(), harmless=0.2)


def test_checkpoints(tmp_path):
    torch = pytest.importorskip("torch", reason="needs the extra shrinkstats[torch]")
    from benchmarks.lab.training.checkpoint import read, write

    def load(path):
        state = read(path, {"seed": 1})
        return None if state is None else (state["settings"], state["net"].numpy().tobytes())

    path = tmp_path / "training.pt"
    write(path, {"settings": {"seed": 1}, "net": torch.from_numpy(numbers())})
    check(path, load)


def test_cells(tmp_path):
    pytest.importorskip("torch", reason="needs the extra shrinkstats[torch]")
    from shrinkstats.adapters.commands.evaluation.cells import Cell, Cells

    path = tmp_path / "cells.jsonl"
    cells = Cells(path, {"images": 12, "seed": 0})
    for severity in (1, 2, 3):
        cells.add(Cell("fog", severity, 4, "batch"), np.random.default_rng(severity).integers(0, 6, 12))

    content, rng = path.read_bytes(), np.random.default_rng(0)
    for version in damaged(content, rng):
        path.write_bytes(version)
        try:
            found = Cells(path, {"images": 12, "seed": 0})
        except (ValueError, OSError) as error:
            named(path, error)
            assert path.read_bytes() == version  # what is refused stays as it is
        else:  # a run that was stopped while it wrote: what is there is right
            assert found.items() <= cells.items()


def test_benchmark_cells(tmp_path):
    Cells = pytest.importorskip("benchmarks.lab.cells", reason="the benchmarks are not on the path").Cells
    path = tmp_path / "cells.jsonl"
    cells = Cells(path, {"epochs": 1})
    for i in range(4):
        cells.add({"norm": "batch", "seed": i, "accuracy": 0.1 * i})
    for version in damaged(path.read_bytes(), np.random.default_rng(0)):
        path.write_bytes(version)
        try:
            found = Cells(path, {"epochs": 1})
        except SystemExit as error:
            named(path, error)
        else:
            assert all(row in cells.rows for row in found.rows), json.dumps(found.rows)
