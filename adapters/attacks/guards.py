"""Guards against fooling oneself: what recorded accuracies must satisfy if the attacks did their work.

They take counts of images classified right and know no network. Two accuracies differ only where their difference
exceeds `sigmas` binomial standard errors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple


class Guard(NamedTuple):
    """What a guard found.

    Attributes
    ----------
    name : str
        Which guard.
    passed : bool or None
        None where there is too little to judge.
    detail : str
        The numbers behind it, in words.
    """

    name: str
    passed: bool | None
    detail: str


def stronger_is_worse(right: Mapping[str, int], images: int, *, sigmas: float = 3.0) -> Guard:
    """A stronger attack leaves less accuracy.

    Parameters
    ----------
    right : mapping from names to int
        Images classified right under each attack, the weakest first: one attack over rising eps, or attacks of one
        eps of which each contains the one before.
    images : int
        How many were attacked.
    sigmas : float
        Standard errors of a difference that are put down to chance.

    Returns
    -------
    Guard
        Failed if some attack left more accuracy than a weaker one had.

    Examples
    --------
    >>> from shrinkstats.adapters.attacks import stronger_is_worse
    >>> stronger_is_worse({"eps 0.01": 700, "eps 0.03": 450, "eps 0.1": 590}, 1000)
    Guard(name='stronger is worse', passed=False, detail='eps 0.1 left 59.0%, above the 45.0% of eps 0.03')
    """
    name = "stronger is worse"
    if len(right) < 2:
        return Guard(name, None, f"{len(right)} attack: nothing to compare")
    names = iter(right)
    lowest = next(names)
    for other in names:
        if _above(right[other], right[lowest], images, sigmas):
            detail = (
                f"{other} left {_share(right[other], images)}, above the {_share(right[lowest], images)} of {lowest}"
            )
            return Guard(name, False, detail)
        lowest = min(lowest, other, key=right.__getitem__)
    return Guard(name, True, " >= ".join(_share(count, images) for count in right.values()))


def falls_to_chance(right: int, images: int, *, classes: int, sigmas: float = 3.0) -> Guard:
    """An attack that may change everything leaves no more than chance.

    Parameters
    ----------
    right : int
        Images classified right under the largest eps.
    images : int
        How many were attacked.
    classes : int
        Equally frequent ones; chance is one in so many.
    sigmas : float
        Standard errors above chance that are put down to it.

    Returns
    -------
    Guard
        Failed if more than chance is left.

    Examples
    --------
    >>> from shrinkstats.adapters.attacks import falls_to_chance
    >>> falls_to_chance(3, 1000, classes=10)
    Guard(name='falls to chance', passed=True, detail='0.3% left, chance is 10.0%')
    """
    _check(right, images)
    chance = 1 / classes
    limit = chance + sigmas * math.sqrt(chance * (1 - chance) / images)
    return Guard("falls to chance", right / images <= limit, f"{_share(right, images)} left, chance is {chance:.1%}")


def black_box_no_better(white: int, black: int, images: int, *, sigmas: float = 3.0) -> Guard:
    """An attack that sees the network's gradients does at least as well as one that does not.

    Parameters
    ----------
    white, black : int
        Images classified right under the white-box attack, and under one of the same size made on another network
        or by trying.
    images : int
        How many were attacked.
    sigmas : float
        Standard errors of a difference that are put down to chance.

    Returns
    -------
    Guard
        Failed if the black-box attack left less: the gradients mislead.

    Examples
    --------
    >>> from shrinkstats.adapters.attacks import black_box_no_better
    >>> black_box_no_better(400, 310, 1000).passed
    False
    """
    detail = f"white box left {_share(white, images)}, black box {_share(black, images)}"
    return Guard("black box no better", not _above(white, black, images, sigmas), detail)


def other_mates(same: int | None, other: int | None, aware: int | None, images: int, *, sigmas: float = 3.0) -> Guard:
    """What is left does not hang on the mates of a batch.

    With batch statistics an image's mates take part in the attack, and whoever attacks may not choose them.

    Parameters
    ----------
    same : int or None
        Images classified right among the mates they were attacked with: the figure to be judged.
    other : int or None
        Right among other mates, after the same attack.
    aware : int or None
        Right among other mates, after an attack that knew the mates would change (see :func:`over_mates`).
    images : int
        How many were attacked.
    sigmas : float
        Standard errors of a difference that are put down to chance.

    Returns
    -------
    Guard
        Failed if accuracy drops among other mates, or if the attack that knew of them did worse than the one that did
        not. Not judged where a number is missing.

    Examples
    --------
    >>> from shrinkstats.adapters.attacks import other_mates
    >>> other_mates(480, 520, 350, 1000)
    Guard(name='other mates', passed=False, detail='same mates 48.0%, others 52.0%, others and known before 35.0%')
    """
    name = "other mates"
    if same is None or other is None or aware is None:
        return Guard(name, None, "not evaluated with other mates")
    shares = (_share(count, images) for count in (same, other, aware))
    detail = "same mates {}, others {}, others and known before {}".format(*shares)
    failed = _above(same, min(other, aware), images, sigmas) or _above(aware, other, images, sigmas)
    return Guard(name, not failed, detail)


def _above(one: int, two: int, images: int, sigmas: float) -> bool:
    """Whether the first share exceeds the second by more than chance; a count is added so that 0% has an error too."""
    for right in (one, two):
        _check(right, images)
    pooled = (one + two + 1) / (2 * images + 2)
    return one - two > sigmas * math.sqrt(2 * images * pooled * (1 - pooled))


def _check(right: int, images: int) -> None:
    if not 0 <= right <= images or images < 1:
        raise ValueError(f"of {images} images {right} cannot be right; pass counts, not shares")


def _share(right: int, images: int) -> str:
    _check(right, images)
    return f"{right / images:.1%}"
