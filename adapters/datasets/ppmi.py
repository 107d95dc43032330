"""Brain volumes of two groups of subjects, as the Parkinson's Progression Markers Initiative has them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shrinkstats.adapters.datasets.archive import Problem, Scan, find_scans
from shrinkstats.adapters.datasets.nifti import Volume, common_grid, read_extent, read_nifti, resample, resample_mask

NORMALIZATIONS = ("zscore", "percentiles", None)
PERCENTILES = (1, 99)


class Volumes(NamedTuple):
    """All volumes of a set in memory.

    Attributes
    ----------
    images : float32 array of shape (n, 1, x, y, z)
        The volumes on their common grid.
    labels : int64 array of shape (n,)
        1 in the positive group, 0 in the other.
    subjects : array of str, of shape (n,)
        Whose each is, for :func:`split_subjects` and :func:`cross_validation`.
    scans : tuple of Scan
        What the archive says of each.
    problems : tuple of Problem
        What was left out, and what was kept with a repair, those found before included.
    """

    images: NDArray[np.float32]
    labels: NDArray[np.int64]
    subjects: NDArray[np.str_]
    scans: tuple[Scan, ...]
    problems: tuple[Problem, ...]


class PPMI:
    """Volumes of the PPMI archive (or another of its kind) with labels, on a common grid.

    An instance has a length and gives (volume, label) for an index or one after another: float32 arrays of shape
    (1, x, y, z), and 1 for the positive group. :meth:`load` reads all of them and passes over broken files.

    Parameters
    ----------
    folder : path
        The folder of NIfTI files, as downloaded: they may lie in folders of any depth.
    table : path
        The archive's CSV, with the columns Image Data ID, Subject, Group (or Image ID, Subject ID, Research Group).
    positive : str or sequence of str
        The group or groups with label 1, such as "PD".
    negative : str or sequence of str, optional
        The group or groups with label 0; without it, all others. Images of further groups are passed over.
    pattern : str
        Files whose names do not match are passed over, such as ``*_FA*`` where several maps of an image lie together.
    shape : (int, int, int), optional
        Voxels of the common grid along right, front, up. By default as many as the median extent of the scans needs.
    spacing : (float, float, float), optional
        Millimetres between its voxels; the median over the scans by default.
    normalization : {"zscore", "percentiles", None}
        What is done to intensities, with the foreground's values: mean 0 and variance 1; the 1st percentile to 0 and
        the 99th to 1, and what is beyond them cut off; or nothing.
    mask : path, optional
        A NIfTI file in the space of the volumes, such as a template's brain mask; where it is 0 is background.

    Attributes
    ----------
    scans : tuple of Scan
        The images, in the order of the table.
    problems : tuple of Problem
        What was left out of them, and why.
    shape, spacing
        Of the common grid.

    Raises
    ------
    FileNotFoundError
        If the folder, the table or the mask is missing; by an index, if the file is.
    ValueError
        If the table will not do, no image is left, or there is one class only. By an index, if its file is broken, is
        no single volume, or has no foreground; the message names the file and the subject.

    Notes
    -----
    Every volume is resampled onto a grid along the axes of the body in the middle of its field of view, by one linear
    interpolation; larger volumes lose their margins. Foreground is where a voxel is neither 0 nor NaN nor infinite,
    and inside of the mask; the background is 0 in the end. A subject whose images are in both classes is left out.
    """

    def __init__(
        self,
        folder: str | Path,
        table: str | Path,
        *,
        positive: str | Sequence[str],
        negative: str | Sequence[str] | None = None,
        pattern: str = "*",
        shape: tuple[int, int, int] | None = None,
        spacing: tuple[float, float, float] | None = None,
        normalization: str | None = "zscore",
        mask: str | Path | None = None,
    ) -> None:
        if normalization not in NORMALIZATIONS:
            raise ValueError(f"normalization must be one of {NORMALIZATIONS}, got {normalization!r}")
        self._normalization = normalization
        self._mask = None if mask is None else _mask(Path(mask))
        self._positive = _names(positive)
        found, problems = find_scans(Path(folder), Path(table), pattern)
        chosen = self._chosen(found, negative)
        both = _both_classes(chosen, self._positive)
        extents, kept = [], []
        for scan in chosen:
            try:
                if scan.subject in both:
                    raise ValueError(f"the subject's images are in the groups {', '.join(both[scan.subject])}")
                extents.append(read_extent(scan.path))
                kept.append(scan)
            except (ValueError, OSError) as error:
                problems.append(_problem(scan, error))
        self.scans, self.problems = tuple(kept), tuple(problems)
        self._check_classes(self.scans, self.problems)
        steps = np.median([step for step, _ in extents], axis=0)
        self.spacing = _three("spacing", steps if spacing is None else spacing)
        extent = np.median([step * size for step, size in extents], axis=0) / self.spacing
        needed = np.maximum(np.ceil(extent - 1e-3), 1)  # a thousandth of a voxel is rounding
        right, front, up = _three("shape", needed if shape is None else shape)
        self.shape = int(right), int(front), int(up)

    @property
    def labels(self) -> NDArray[np.int64]:
        """1 in the positive group, 0 in the other; of shape (n,)."""
        return np.array([self._label(scan) for scan in self.scans], dtype=np.int64)

    @property
    def subjects(self) -> NDArray[np.str_]:
        """Whose volume each is, of shape (n,)."""
        return np.array([scan.subject for scan in self.scans])

    def __len__(self) -> int:
        return len(self.scans)

    def __getitem__(self, index: int) -> tuple[NDArray[np.float32], int]:
        scan = self.scans[index]
        try:
            return self._volume(scan.path)[0], self._label(scan)
        except (ValueError, OSError) as error:
            raise type(error)(str(_problem(scan, error))) from error

    def __iter__(self) -> Iterator[tuple[NDArray[np.float32], int]]:
        return (self[index] for index in range(len(self)))

    def load(self, progress: Callable[[int, int], None] | None = None) -> Volumes:
        """Read every volume; those that cannot be read are left out and named among the problems.

        Parameters
        ----------
        progress : callable, optional
            Called with the number of files that are done, and of all.

        Returns
        -------
        Volumes
            What could be read.

        Raises
        ------
        ValueError
            If no volume is left, or there is one class only.
        """
        images = np.empty((len(self), 1, *self.shape), np.float32)
        scans: list[Scan] = []
        problems = list(self.problems)
        for done, scan in enumerate(self.scans, 1):
            try:
                images[len(scans)], repair = self._volume(scan.path)
            except (ValueError, OSError) as error:
                problems.append(_problem(scan, error))
            else:
                scans.append(scan)
                if repair:
                    problems.append(Problem(scan.path, scan.subject, repair, kept=True))
            if progress is not None:
                progress(done, len(self))
        self._check_classes(scans, problems)
        labels = np.array([self._label(scan) for scan in scans], dtype=np.int64)
        subjects = np.array([scan.subject for scan in scans])
        return Volumes(images[: len(scans)], labels, subjects, tuple(scans), tuple(problems))

    def _volume(self, path: Path) -> tuple[NDArray[np.float32], str]:
        """The volume on the common grid, and what had to be repaired."""
        volume = read_nifti(path)
        finite = np.isfinite(volume.values)
        values = np.where(finite, volume.values, 0)
        grid = common_grid(volume, self.shape, self.spacing)
        inside = resample_mask(values != 0, volume.affine, grid, self.shape)
        if self._mask is not None:
            inside &= resample_mask(self._mask.values > 0, self._mask.affine, grid, self.shape)
        if not inside.any():
            within = "" if self._mask is None else " inside of the mask"
            raise ValueError(f"no voxel{within} has a value other than 0, NaN or infinity")
        image = np.zeros(self.shape, np.float32)
        image[inside] = _normalized(
            resample(volume._replace(values=values), grid, self.shape)[inside], self._normalization
        )
        odd = finite.size - np.count_nonzero(finite)
        return image[None], f"{odd} voxels are NaN or infinite; taken as background" if odd else ""

    def _label(self, scan: Scan) -> int:
        return int(scan.group in self._positive)

    def _chosen(self, scans: Sequence[Scan], negative: str | Sequence[str] | None) -> list[Scan]:
        groups = {scan.group for scan in scans}
        others = tuple(groups - set(self._positive)) if negative is None else _names(negative)
        both = sorted(set(self._positive) & set(others))
        if both:
            raise ValueError(f"positive and negative share {', '.join(both)}")
        absent = sorted({*self._positive, *others} - groups)
        if absent and scans:
            raise ValueError(f"no image in the group {', '.join(absent)}; there is {', '.join(sorted(groups))}")
        return [scan for scan in scans if scan.group in self._positive or scan.group in others]

    def _check_classes(self, scans: Sequence[Scan], problems: Sequence[Problem]) -> None:
        if len({self._label(scan) for scan in scans}) < 2:
            what = f"all in {', '.join(sorted({scan.group for scan in scans}))}" if scans else "nothing to learn from"
            left = f"; {len(problems)} were left out, as {problems[0]}" if problems else ""
            raise ValueError(f"expected images of two classes, found {len(scans)} images, {what}{left}")


def _normalized(values: NDArray[np.float32], how: str | None) -> NDArray[np.float64]:
    """Intensities of the foreground after normalization."""
    exact = values.astype(np.float64)
    if how is None:
        return exact
    if how == "zscore":
        low, width = exact.mean(), exact.std()
    else:
        low, high = np.percentile(exact, PERCENTILES)
        width = high - low
    if not width > 1e-6 * np.abs(exact).max():
        raise ValueError(f"the foreground has the value {low:g} throughout, which cannot be normalized")
    normalized = (exact - low) / width
    return normalized if how == "zscore" else normalized.clip(0, 1)


def _both_classes(scans: Sequence[Scan], positive: Sequence[str]) -> dict[str, list[str]]:
    """The groups of subjects that have images in both classes."""
    groups: dict[str, set[str]] = {}
    for scan in scans:
        groups.setdefault(scan.subject, set()).add(scan.group)
    return {subject: sorted(found) for subject, found in groups.items() if len({g in positive for g in found}) > 1}


def _mask(path: Path) -> Volume:
    try:
        return read_nifti(path)
    except (ValueError, OSError) as error:
        raise type(error)(f"{path} (the mask): {error}") from error


def _problem(scan: Scan, error: BaseException) -> Problem:
    return Problem(scan.path, scan.subject, str(error))


def _names(groups: str | Sequence[str]) -> tuple[str, ...]:
    return (groups,) if isinstance(groups, str) else tuple(groups)


def _three(name: str, values: Iterable[float]) -> tuple[float, float, float]:
    numbers = tuple(map(float, values))
    if len(numbers) != 3 or not all(0 < number < np.inf for number in numbers):
        raise ValueError(f"{name} must be three positive numbers, got {numbers}")
    return numbers
