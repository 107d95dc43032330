"""What all rules for a normalization layer have in common, and what a rule says of itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from shrinkstats._arrays import Array, namespace
from shrinkstats.values import Cotangent, Moments, Prior, Statistics, as_prior

SAMPLE_MEAN = "the sample mean"
BOCK = "the sample mean times Bock's factor, of the noise of each channel"
CHANNEL = "the sample mean times a factor of the spread between the channels"
VARIANCE, RANGE = "variance", "range"

# What every class has of its own, and what a dataclass decorator adds: nothing that an estimate could depend on, since
# fields are read from the object and not from its class.
NEUTRAL = frozenset(
    {
        "__module__",
        "__qualname__",
        "__doc__",
        "__dict__",
        "__weakref__",
        "__annotations__",
        "__annotate_func__",
        "__annotations_cache__",
        "__static_attributes__",
        "__firstlineno__",
        "__dataclass_params__",
        "__dataclass_fields__",
        "__match_args__",
        "__replace__",
        "__init__",
        "__repr__",
        "__eq__",
        "__hash__",
        "__setattr__",
        "__delattr__",
    }
)
SPEAKS_OF = {"spread_is": frozenset({"scale", "scale_gradient", "tracked"})}  # the other sayings, of all members


def said(rule: Any, saying: str) -> Any:
    """What a rule, or a model of noise, says of its formula by an attribute; None if nothing.

    A class derived from the one that says it may compute anything: what was said holds for it only if it, and every
    other base of it, overrides nothing that the saying speaks of, and its objects hold nothing that their class does
    not name as a field. A class that says it anew answers for itself.
    """
    order, own = type(rule).__mro__, getattr(rule, "__dict__", {}).keys()
    members = SPEAKS_OF.get(saying)
    for i, cls in enumerate(order):
        if saying in vars(cls):
            if members is not None:
                return None if own & members else getattr(rule, saying)
            unchanged = order[i:] == cls.__mro__ and own <= getattr(cls, "__dataclass_fields__", {}).keys()
            return getattr(rule, saying) if unchanged else None
        overridden = vars(cls).keys() & members if members is not None else vars(cls).keys() - NEUTRAL
        if overridden:
            return None
    return None


@dataclass(frozen=True)
class Estimator:
    """Base of all rules.

    Subclasses define :meth:`statistics`; those whose second statistic is not a variance also override
    :meth:`scale`, :meth:`scale_gradient` and :meth:`tracked`. A layer differentiates any rule by itself;
    :meth:`pullback` is there for rules that know a faster way.

    What others want to know of a rule they ask the rule, never its class (`said`). A rule may say nothing; then
    nothing is taken for granted, and nothing is proved of it.

    Attributes
    ----------
    label : str
        What tables and pictures call it; a rule that says nothing goes by how it is written in code.
    uses_extremes, uses_prior, uses_noise : bool
        Whether `statistics` looks at minimum and maximum (a layer need not compute them if it does not), at the prior,
        and at the prior's noise, which calibration measures.
    mean_is : str or None
        How its center arises: `SAMPLE_MEAN`, a factor on it (`BOCK`, `CHANNEL`), or None, some other way.
    spread_is : str
        What its second statistic is: `VARIANCE` or `RANGE`.
    compiled : callable or None
        ``(moments) -> Statistics`` of vectors of float64, faster than `statistics`.
    rules : tuple of int or None
        What `stein.cu` is told, if that is the rule's code for a GPU.
    adapted_lines : callable or None
        All that an adapted layer does to vectors, in one compiled call.
    """

    uses_extremes: ClassVar[bool] = True
    uses_prior: ClassVar[bool] = True
    uses_noise: ClassVar[bool] = False
    mean_is: ClassVar[Any] = None
    spread_is: ClassVar[Any] = VARIANCE

    def statistics(self, moments: Moments, prior: Prior | None) -> Statistics:
        """What the layer normalizes with and its running buffers follow: center, and variance or range."""
        raise NotImplementedError(f"{type(self).__name__} must define statistics(moments, prior)")

    def scale(self, spread: Array, eps: float) -> Array:
        """What the centered data are divided by: sqrt(variance + eps)."""
        return namespace(spread=spread).sqrt(spread + eps)

    @property
    def has_own_scale(self) -> bool:
        """Whether `scale` is another formula than the square root of variance + eps."""
        return type(self).scale is not Estimator.scale

    def scale_gradient(self, spread: Array, scale: Array) -> Array:
        """The derivative of `scale`, itself at hand, with respect to the spread."""
        return 0.5 / scale

    def tracked(self, spread: Array, count: int) -> Array:
        """What running_var follows: the variance times count / (count - 1), as in PyTorch."""
        return spread * (count / (count - 1))

    def pullback(self, moments: Moments, prior: Prior | None, g: Statistics) -> Cotangent | None:
        """Turn the gradient of a loss with respect to `statistics` into that for the moments, if in closed form."""
        return None

    def __call__(self, moments: Moments, prior: Any = None, eps: float = 1e-5) -> tuple[Array, Array]:
        """Center and scale, vectors of shape (c,).

        Parameters
        ----------
        moments : Moments
            Of the batch.
        prior : Statistics, Prior or Moments, optional
            Training statistics, for the rules that blend with them.
        eps : float
            Added to the variance before the square root.

        Raises
        ------
        ValueError
            If nothing was counted, or the rule needs a prior and got none.
        """
        if not isinstance(moments, Moments):
            raise TypeError(
                f"{type(self).__name__} takes Moments (shrinkstats.moments(x)), got {type(moments).__name__}"
            )
        if not moments.count:
            raise ValueError("the moments are empty: there is nothing to estimate from")
        center, spread = self.statistics(moments, None if prior is None else as_prior(prior))
        return center, self.scale(spread, eps)


def label_of(rule: Any) -> str:
    """What tables and pictures call a rule."""
    label = getattr(rule, "label", None)
    return label if isinstance(label, str) else str(rule)


def required(estimator: Estimator, prior: Prior | None) -> Prior:
    """The prior, without which a blend is nothing."""
    if prior is None:
        raise ValueError(
            f"{estimator} blends with training statistics: pass prior=Statistics(mean, var) "
            "(a layer needs track_running_stats=True)"
        )
    return prior
