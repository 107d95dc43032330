"""Brain volumes from NIfTI files, which are not trusted, and what brings them onto a common grid."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

LARGEST = 2**28  # voxels; a header that promises more is damaged, and would take memory before that shows

LARGEST_FILE = 8 * LARGEST + 2**28  # bytes, unpacked


class Volume(NamedTuple):
    """Values of shape (x, y, z) in float32, and the affine map from voxel indices to millimetres.

    Both count from left to right, from back to front, and upwards, as far as the axes of the scan go along those of
    the body.
    """

    values: NDArray[np.float32]
    affine: Array


def read_nifti(path: Path) -> Volume:
    """The volume in a file.

    Parameters
    ----------
    path : path
        A file ending in ``.nii`` or ``.nii.gz``.

    Returns
    -------
    Volume
        Its values, which may be infinite or NaN, and its affine map.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is cut short or damaged, or holds something other than one volume of real numbers: a series of
        volumes, colours, a map onto a plane. The message does not name the file.
    """
    import nibabel

    with _reading(path) as image:
        shape, affine = _shape(image), _affine(image)
        image = type(image).from_bytes(_content(path, image))
        with np.errstate(all="ignore"):  # values beyond float32 become infinite, which is seen later
            values = image.get_fdata(dtype=np.float32, caching="unchanged").reshape(shape)
        turn = nibabel.io_orientation(affine)
        return Volume(nibabel.apply_orientation(values, turn), affine @ nibabel.orientations.inv_ornt_aff(turn, shape))


def read_extent(path: Path) -> tuple[Array, Array]:
    """Millimetres between voxels and number of voxels along right, front, up, from the header alone.

    Raises as `read_nifti` does.
    """
    import nibabel

    with _reading(path) as image:
        affine = _affine(image)
        order = np.argsort(nibabel.io_orientation(affine)[:, 0])  # of the scan's axes, which is right, front, up
        return _spacing(affine)[order], np.array(_shape(image), dtype=float)[order]


def common_grid(volume: Volume, shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> Array:
    """The affine map of a grid along right, front, up, in the middle of the volume."""
    middle = volume.affine @ [*((np.array(volume.values.shape) - 1) / 2), 1.0]
    grid = np.diag([*spacing, 1.0])
    grid[:3, 3] = middle[:3] - np.array(spacing) * (np.array(shape) - 1) / 2
    return grid


def resample(volume: Volume, grid: Array, shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """Values at the points of a grid, interpolated linearly; beyond the edges those of the edges.

    Where the grid is coarser than the volume, values are smoothed before, by a Gaussian of standard deviation
    (ratio - 1)/2 voxels, so that fine patterns do not turn into coarse ones.
    """
    linear, _ = matrix = _from_grid(volume.affine, grid)
    steps = np.linalg.norm(linear, axis=1) if linear.ndim == 2 else linear
    sigma = np.maximum(steps - 1, 0) / 2
    smooth = sigma.max() > 1e-6  # spacings differ by rounding where they are meant to be equal
    values = ndimage.gaussian_filter(volume.values, sigma, mode="nearest") if smooth else volume.values
    return ndimage.affine_transform(values, *matrix, output_shape=shape, order=1, mode="nearest")


def resample_mask(mask: Mask, affine: Array, grid: Array, shape: tuple[int, int, int]) -> Mask:
    """The mask at the voxel nearest to each point of a grid; False outside."""
    matrix = _from_grid(affine, grid)
    return ndimage.affine_transform(mask.view(np.uint8), *matrix, output_shape=shape, order=0, mode="grid-constant") > 0


def _from_grid(affine: Array, grid: Array) -> tuple[Array, Array]:
    """What takes indices on the grid to those in the volume: a matrix and an offset.

    Of a matrix that is diagonal, its diagonal: SciPy then interpolates several times as fast.
    """
    both = np.linalg.inv(affine) @ grid
    linear, offset = both[:3, :3], both[:3, 3]
    diagonal = np.diag(linear)
    aligned = np.abs(linear - np.diag(diagonal)).max() < 1e-6 * diagonal.min()
    return (diagonal if aligned else linear), offset


@contextmanager
def _reading(path: Path) -> Iterator[Any]:
    """The image in a file; whatever a parser raises on a malformed file is one ValueError."""
    import nibabel  # an optional extra

    if not path.is_file():
        raise FileNotFoundError("the file is missing")
    try:
        yield nibabel.load(path)
    except _Unsuitable:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"cannot be read as NIfTI (cut short or damaged?): {reason}") from error


class _Unsuitable(ValueError):
    """The file is sound; what it holds will not do."""


def _shape(image: Any) -> tuple[int, int, int]:
    shape = tuple(int(size) for size in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3 or min(shape) < 1:
        raise _Unsuitable(f"expected one volume with three axes, found shape {tuple(image.shape)}")
    if np.prod(shape, dtype=float) > LARGEST:
        raise _Unsuitable(f"the header promises {shape} voxels, more than a scan has; it is damaged")
    if image.get_data_dtype().kind not in "iuf":
        raise _Unsuitable(f"expected real numbers, found {image.get_data_dtype()}")
    return shape


def _content(path: Path, image: Any) -> bytes:
    """All bytes of a file, unpacked; as many as its header says, and as they were written where gzip has a sum of them.

    nibabel stops before the sum, which comes last, so that it is never compared.
    """
    import nibabel

    if not isinstance(image, nibabel.Nifti1Image):
        raise _Unsuitable(f"expected NIfTI, found {type(image).__name__}")
    count = int(image.dataobj.offset) + int(np.prod(image.shape)) * image.get_data_dtype().itemsize
    if count > LARGEST_FILE:
        raise _Unsuitable(f"the header promises {count} bytes, more than a scan has; it is damaged")
    with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
        content = file.read(count)
        more = file.read(1)  # at the end gzip compares its sum
    if len(content) < count or more:
        raise ValueError(f"the header promises {count} bytes, there are {'more' if more else len(content)}")
    return content


def _affine(image: Any) -> Array:
    affine = np.array(image.affine, dtype=float)
    with np.errstate(all="ignore"):
        flat = not abs(np.linalg.det(affine[:3, :3])) > 1e-6 * np.prod(_spacing(affine))
    if flat or not np.isfinite(affine).all():
        raise _Unsuitable("its affine map is not one of space onto space; the header is damaged")
    return affine


def _spacing(affine: Array) -> Array:
    return np.linalg.norm(affine[:3, :3], axis=0)
