"""What is right, and how far a correct computation may be from it.

Right is what naive formulas give on a plain float64 copy. A tolerance is derived, not chosen: a stable computation
gives the exact result for data that differ from the given ones by a few roundings, so the formula is evaluated on such
data too, and what it changes by is allowed. Where a problem is well posed that is a few units in the last place.
"""

import naive
import numpy as np
from laying import LIMITS

EPS = {name: eps for name, (eps, _, _) in LIMITS.items()}


def width(dtype):
    """The dtype that the passes compute in, of data of a dtype: half precision is widened, integers are float64."""
    return "float32" if dtype in ("float16", "bfloat16", "float32") else "float64"


def check(name, ours, right, tolerance, dtype="float64"):
    """Ours is near what is right; what does not fit into the dtype may be infinite; NaN where it is NaN."""
    ours, right, tolerance = np.broadcast_arrays(
        np.asarray(ours, np.float64), np.asarray(right, np.float64), np.asarray(tolerance, np.float64)
    )
    _, tiny, most = LIMITS[dtype]
    floor = 2.0**-24 if dtype == "float16" else tiny  # processors and compilers may take subnormal numbers for zero
    with np.errstate(all="ignore"):
        fits = np.abs(right) < most * (1 - 1e-2)
        near = np.abs(ours - right) <= tolerance + 2 * EPS[dtype] * np.abs(right) + floor
        overflows = ~fits & (np.sign(ours) == np.sign(right)) & (np.abs(ours) >= most * 0.98)
    good = np.where(np.isnan(right), np.isnan(ours), np.where(np.isinf(right), ours == right, near) | overflows)
    good |= np.isinf(right) & overflows
    good |= ~(tolerance < np.inf)  # a result that a rounding of the data decides
    if not good.all():
        at = tuple(int(i) for i in np.argwhere(~good)[0])
        share = f"{(~good).sum()} of {good.size}"
        raise AssertionError(
            f"{name}{list(at)} is {ours[at]!r}, right is {right[at]!r} within {tolerance[at]:.3g} ({share} are wrong)"
        )


def moments(x, axis, sample_axis, dtype="float64", data_dtype="float64"):
    """What Moments hold, exactly: for each name the vector and its tolerance.

    `dtype` is that of the statistics. Elements are looked at around a pivot that lies in the data: deviations, of the
    size of the range at most, are rounded in the data's width; the mean is rounded in that of the statistics.
    """
    flat = np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1)
    n = flat.shape[1]
    broken = ~np.isfinite(flat).all(axis=1)
    size = np.where(broken, 1.0, np.abs(np.where(np.isfinite(flat), flat, 0)).max(axis=1))
    power = np.frexp(size)[1]  # in units of the largest, nothing overflows
    along = [1] * x.ndim
    along[axis] = -1
    unit = np.ldexp(np.where(broken.reshape(along), 0.0, x), -power.reshape(along))
    found = naive.moments(unit, axis, sample_axis)
    spread = found["maximum"] - found["minimum"]
    delta = 8 * EPS[width(data_dtype)] * spread + 8 * EPS[dtype] * np.ldexp(size, -power)
    own = 8 * max(EPS[width(data_dtype)], EPS[dtype]) * spread + 8 * 2.0**-52 * np.ldexp(size, -power)
    m2_tolerance = 32 * EPS[width(data_dtype)] * found["m2"] + 4 * np.sqrt(n * found["m2"]) * own / 8 + n * own * own
    constant = np.where(spread == 0, n * (2 * EPS[dtype] * np.ldexp(size, -power)) ** 2, 0)  # the mean's own rounding
    m2_tolerance = m2_tolerance + constant
    samples = found["samples"]
    if samples > 1 and sample_axis is not None:
        scale = samples * (samples - 1)
        sample_m2 = found["noise"] * scale
        noise_tolerance = (2 * np.sqrt(samples * sample_m2) * own + samples * own * own + constant) / scale
    else:
        noise_tolerance = m2_tolerance / n / (n - 1) if n > 1 else 0 * m2_tolerance
    tolerances = {"mean": delta, "m2": m2_tolerance, "var": m2_tolerance / n, "noise": noise_tolerance}
    vectors = {}
    with np.errstate(all="ignore"):
        for name, tolerance in {**tolerances, "minimum": 0.0, "maximum": 0.0}.items():
            degree = 2 if name in ("m2", "var", "noise") else 1
            value = np.ldexp(found[name], degree * power)
            value[broken] = [broken_value(name, row) for row in flat[broken]]
            vectors[name] = value, np.where(broken, 0, np.ldexp(tolerance * np.ones_like(value), degree * power))
    return {"count": n, "samples": samples, **vectors}


def broken_value(name, row):
    """Of a channel with NaN or infinity: infinity has a mean (both infinities have not), and no variance."""
    if np.isnan(row).any() or name in ("m2", "var", "noise"):
        return np.nan
    with np.errstate(invalid="ignore"):
        return {"mean": np.sum(row / 4), "minimum": row.min(), "maximum": row.max()}[name]


def check_moments(ours, right, host=np.asarray, dtype="float64"):
    """Moments against what `moments` gave."""
    assert (ours.count, ours.samples) == (right["count"], right["samples"])
    for name in ("minimum", "maximum", "mean", "m2", "var", "noise"):
        value = ours.var() if name == "var" else getattr(ours, name)
        check(name, host(value), *right[name], dtype)
