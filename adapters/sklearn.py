"""scikit-learn: standardize features with shrunken statistics."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from shrinkstats import moments
from shrinkstats.estimators import Estimator, Stein
from shrinkstats.values import Moments, Prior, SamplingNoise, as_prior

__all__ = ["SteinScaler"]

FITTED = ("moments_", "mean_", "scale_", "n_samples_seen_", "n_features_in_", "feature_names_in_")


class SteinScaler(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Standardize features: subtract a center and divide by a scale that an estimator of this package finds.

    With few rows and many features, shrunken statistics are closer to the true ones than sample means and variances.
    ``SteinScaler(BatchStatistics())`` is scikit-learn's StandardScaler.

    Parameters
    ----------
    estimator : Estimator, optional
        One of :mod:`shrinkstats.estimators`; None is ``Stein()``.
    prior : Statistics, Prior or Moments, optional
        Statistics of older data, for the estimators that blend with them.

    Attributes
    ----------
    moments_ : Moments
        What the rows seen so far say; they merge, and can be saved.
    mean_ : array of shape (n_features,)
        The center.
    scale_ : array of shape (n_features,)
        The scale: 1 for a feature whose estimated scale is 0.
    n_samples_seen_ : int
        Rows seen so far.
    n_features_in_ : int
        Features seen in `fit`.
    feature_names_in_ : array of shape (n_features,)
        Names of the features, where the data have any.

    Notes
    -----
    ``Stein()`` pools features in the units that they come in: means shrink towards 0, and each variance takes something
    of the geometric mean of all. That helps where features are of one kind (channels, genes, sensors). Where their
    units differ, say ``Stein(mean="sampling", var=None)`` or bring them to one scale first.

    Rows are taken to be independent. Missing values are an error.

    References
    ----------
    See :class:`shrinkstats.estimators.Stein`.

    Examples
    --------
    >>> import numpy as np
    >>> from shrinkstats.adapters.sklearn import SteinScaler
    >>> rng = np.random.default_rng(0)
    >>> truth = rng.normal(0.0, 0.3, size=50)
    >>> x = rng.normal(truth, 2.0, size=(8, 50))
    >>> scaler = SteinScaler().fit(x)
    >>> plain, shrunken = ((v - truth) @ (v - truth) for v in (x.mean(axis=0), scaler.mean_))
    >>> print(f"squared error of the means {plain:.1f}, shrunken {shrunken:.1f}")
    squared error of the means 24.3, shrunken 3.3
    >>> y = scaler.transform(x)
    >>> bool(np.allclose(scaler.inverse_transform(y), x))
    True
    """

    def __init__(self, estimator: Estimator | None = None, *, prior: Any = None) -> None:
        self.estimator = estimator
        self.prior = prior

    def fit(self, X: ArrayLike, y: object = None) -> SteinScaler:
        """Find center and scale.

        Parameters
        ----------
        X : array of shape (n_samples, n_features)
            Rows are observations.
        y : object
            Ignored.

        Returns
        -------
        SteinScaler
            Itself.

        Raises
        ------
        ValueError
            If the data are not finite numbers in a table, or too few rows for the estimator, or if `prior` is not a
            finite number for every feature.
        """
        with self._or_as_before():
            for name in FITTED:
                vars(self).pop(name, None)
            self.partial_fit(X)
            self._check_statistics()
        return self

    def partial_fit(self, X: ArrayLike, y: object = None) -> SteinScaler:
        """Take more rows into account; parts give what `fit` gives on all of them, up to rounding.

        Parameters
        ----------
        X : array of shape (n_samples, n_features)
            Rows are observations.
        y : object
            Ignored.

        Returns
        -------
        SteinScaler
            Itself.

        Raises
        ------
        ValueError
            If the data are not finite numbers in a table, or of another number of features, or if `prior` is not a
            finite number for every feature.
        TypeError
            If `estimator` is not one.
        """
        estimator = Stein() if self.estimator is None else self.estimator
        if not isinstance(estimator, Estimator):
            raise TypeError(f"estimator must be one of shrinkstats.estimators, such as Stein(), got {estimator!r}")
        first = not hasattr(self, "moments_")
        with self._or_as_before():
            found = moments(self._table(X, reset=first))
            prior = None if self.prior is None else _prior(self.prior, self.n_features_in_)
            self.moments_: Moments = found if first else self.moments_ + found
            self.n_samples_seen_ = self.moments_.samples
            self.mean_, scale = estimator(self.moments_, prior=prior, eps=0.0)
            self.scale_ = np.where(scale == 0, 1.0, scale)
        return self

    def transform(self, X: ArrayLike) -> NDArray[Any]:
        """Center and scale.

        Parameters
        ----------
        X : array of shape (n_samples, n_features)
            Rows are observations.

        Returns
        -------
        array of shape (n_samples, n_features)
            Of the data's dtype: float32 or float64; other numbers become float64.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If the data are not finite numbers in a table of the right number of features, or too few rows were seen.
        """
        x = self._fitted_table(X)
        return ((x - self.mean_) / self.scale_).astype(x.dtype, copy=False)

    def inverse_transform(self, X: ArrayLike) -> NDArray[Any]:
        """Undo `transform`.

        Parameters
        ----------
        X : array of shape (n_samples, n_features)
            What `transform` gave.

        Returns
        -------
        array of shape (n_samples, n_features)
            Of the dtype that `transform` would give.

        Raises
        ------
        NotFittedError, ValueError
            As `transform`.
        """
        x = self._fitted_table(X)
        return (x * self.scale_ + self.mean_).astype(x.dtype, copy=False)

    def _table(self, X: ArrayLike, *, reset: bool) -> NDArray[Any]:
        return validate_data(self, X, reset=reset, dtype=(np.float64, np.float32))

    def _fitted_table(self, X: ArrayLike) -> NDArray[Any]:
        check_is_fitted(self)
        x = self._table(X, reset=False)
        self._check_statistics()
        return x

    @contextmanager
    def _or_as_before(self) -> Iterator[None]:
        """Whatever fails, nothing of it stays: rows would be counted twice when it is tried again."""
        before = dict(vars(self))
        try:
            yield
        except BaseException:
            vars(self).clear()
            vars(self).update(before)
            raise

    def _check_statistics(self) -> None:
        if not (np.isfinite(self.mean_).all() and np.isfinite(self.scale_).all()):
            if not np.isfinite(self.moments_.m2).all():
                raise ValueError(
                    "the data are too large: squares of their deviations overflow; divide them by a number first"
                )
            raise ValueError(
                f"n_samples={self.n_samples_seen_} is too few for {self.estimator or Stein()}, whose estimates are not "
                "finite; fit on more rows"
            )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _prior(given: Any, features: int) -> Prior:
    """A prior of these features: one of another shape would broadcast to a center for every row."""
    prior = as_prior(given)
    parts = {"mean": prior.mean, "var": prior.var}
    if isinstance(prior.noise, SamplingNoise):
        parts |= {f"noise.{name}": part for name, part in prior.noise._asdict().items()}
    elif prior.noise is not None:
        parts["noise"] = prior.noise
    for name, part in parts.items():
        if np.shape(part) not in ((), (features,)):
            raise ValueError(f"prior.{name} must hold a number for each of {features} features, got {np.shape(part)}")
        if not np.isfinite(np.asarray(part)).all():
            raise ValueError(f"prior.{name} holds NaN or infinity")
    return prior
