"""The mean corruption error of ImageNet-C (Hendrycks & Dietterich 2019): errors relative to AlexNet's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

Errors = Mapping[str, float | Sequence[float]]

ALEXNET = {
    "gaussian_noise": (0.69528, 0.82542, 0.93554, 0.98138, 0.99452),
    "shot_noise": (0.71224, 0.85108, 0.93574, 0.98182, 0.99146),
    "impulse_noise": (0.78374, 0.89808, 0.9487, 0.9872, 0.99548),
    "defocus_blur": (0.65624, 0.73202, 0.85036, 0.91364, 0.94714),
    "glass_blur": (0.64308, 0.75054, 0.88806, 0.91622, 0.93344),
    "motion_blur": (0.5843, 0.70048, 0.82108, 0.8975, 0.92638),
    "zoom_blur": (0.70008, 0.76992, 0.80784, 0.84198, 0.87198),
    "snow": (0.71726, 0.88392, 0.86468, 0.9187, 0.94952),
    "frost": (0.6139, 0.79734, 0.8879, 0.89942, 0.9343),
    "fog": (0.67474, 0.7605, 0.84378, 0.8726, 0.945),
    "brightness": (0.4514, 0.48502, 0.54048, 0.62166, 0.7244),
    "contrast": (0.64548, 0.7615, 0.88874, 0.9776, 0.9927),
    "elastic_transform": (0.52596, 0.70116, 0.55686, 0.64076, 0.80554),
    "pixelate": (0.52218, 0.5462, 0.73728, 0.87092, 0.91262),
    "jpeg_compression": (0.51002, 0.54718, 0.57294, 0.65458, 0.74778),
}
"""AlexNet's top-1 errors on ImageNet-C at severities 1 to 5; means as in ``ALEXNET_ERR`` of google-research/augmix."""

ALEXNET_CLEAN = 0.435
"""AlexNet's top-1 error on clean images, from table 1 of Hendrycks & Dietterich (2019)."""


def corruption_errors(errors: Errors, *, baseline: Errors = ALEXNET) -> dict[str, float]:
    """The error on each corruption, divided by the baseline's.

    Parameters
    ----------
    errors : mapping from corruption to errors
        Top-1 errors from 0 to 1 at severities 1 to 5, or their mean, for each corruption that `baseline` has.
    baseline : mapping from corruption to errors
        What to divide by.

    Returns
    -------
    dict from corruption to float
        In the order of `baseline`; 1 is as good as the baseline, 0 is without error.

    Raises
    ------
    ValueError
        If a corruption is missing or unknown, or errors are not five numbers, or one, from 0 to 1.

    Notes
    -----
    Equation 1 of Schneider et al. (2020) before its mean: the sum of the errors over severities over the sum of
    AlexNet's.

    Examples
    --------
    >>> from shrinkstats.adapters.robustness import corruption_errors
    >>> corruption_errors({"fog": [0.1, 0.2, 0.3, 0.4, 0.5]}, baseline={"fog": 0.6})
    {'fog': 0.5}
    """
    return _relative(errors, baseline, 0.0, 0.0)


def mean_corruption_error(errors: Errors, *, baseline: Errors = ALEXNET) -> float:
    """The mean of `corruption_errors`: mCE.

    Parameters
    ----------
    errors : mapping from corruption to errors
        Top-1 errors from 0 to 1 at severities 1 to 5, or their mean, for each corruption that `baseline` has.
    baseline : mapping from corruption to errors
        What to divide by.

    Returns
    -------
    float
        A fraction; papers print percent.

    Raises
    ------
    ValueError
        If a corruption is missing or unknown, or errors are not five numbers, or one, from 0 to 1.

    Examples
    --------
    >>> from shrinkstats.adapters.robustness import ALEXNET, mean_corruption_error
    >>> mean_corruption_error(ALEXNET)
    1.0
    """
    return float(np.mean(list(corruption_errors(errors, baseline=baseline).values())))


def relative_mean_corruption_error(
    errors: Errors, clean: float, *, baseline: Errors = ALEXNET, baseline_clean: float = ALEXNET_CLEAN
) -> float:
    """How much error corruptions add, divided by what they add to the baseline's: relative mCE.

    Parameters
    ----------
    errors : mapping from corruption to errors
        Top-1 errors from 0 to 1 at severities 1 to 5, or their mean, for each corruption that `baseline` has.
    clean : float
        The error on clean images.
    baseline : mapping from corruption to errors
        What to compare with.
    baseline_clean : float
        The baseline's error on clean images.

    Returns
    -------
    float
        A fraction; papers print percent.

    Raises
    ------
    ValueError
        If a corruption is missing or unknown, errors are not five numbers, or one, from 0 to 1, or a corruption adds
        nothing to the baseline's error.

    Examples
    --------
    >>> from shrinkstats.adapters.robustness import relative_mean_corruption_error
    >>> relative_mean_corruption_error({"fog": 0.5}, 0.25, baseline={"fog": 0.75}, baseline_clean=0.25)
    0.5
    """
    clean, baseline_clean = _mean("clean", clean), _mean("baseline_clean", baseline_clean)
    return float(np.mean(list(_relative(errors, baseline, clean, baseline_clean).values())))


def _relative(errors: Errors, baseline: Errors, clean: float, baseline_clean: float) -> dict[str, float]:
    if missing := [name for name in baseline if name not in errors]:
        raise ValueError(f"errors lack {', '.join(missing)}: the mean is over every corruption of the baseline")
    if unknown := [name for name in errors if name not in baseline]:
        raise ValueError(f"the baseline has no {', '.join(unknown)}: leave them out, or give a baseline that has them")
    scales = {name: _mean(name, values) - baseline_clean for name, values in baseline.items()}
    if useless := [name for name, scale in scales.items() if scale <= 0]:
        raise ValueError(f"the baseline's error on {', '.join(useless)} leaves nothing to divide by")
    return {name: (_mean(name, errors[name]) - clean) / scale for name, scale in scales.items()}


def _mean(name: str, values: float | Sequence[float]) -> float:
    array = np.asarray(values, dtype=float)
    if array.shape not in ((), (5,)):
        raise ValueError(f"{name}: expected errors at five severities, or their mean, got shape {array.shape}")
    if not ((array >= 0) & (array <= 1)).all():
        raise ValueError(f"{name}: errors must lie between 0 and 1, got {values}; divide percentages by 100")
    return float(array.mean())
