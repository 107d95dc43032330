"""What to evaluate, from the words of a command line."""

from __future__ import annotations

import re

from shrinkstats.adapters.commands.errors import UsageError
from shrinkstats.adapters.commands.evaluation.data import CLEAN, MIXED, SEVERITIES, Condition, Data
from shrinkstats.estimators import BatchStatistics, Estimator, PriorBlend, SteinBlend
from shrinkstats.rules.registry import RULES, named

TRAINED = "trained"


def conditions(text: str, data: Data) -> list[Condition]:
    """Shifts and severities, each once, in the order asked for.

    Parameters
    ----------
    text : str
        Words such as ``none``, ``fog`` (all severities), ``fog:3``, ``all``, ``all:3``, ``mixed`` and ``mixed:3``.
    data : Data
        What there is.

    Raises
    ------
    UsageError
        If a word is none of these, or the data do not have it.
    """
    found: list[Condition] = []
    for word in _words("--shifts", text):
        name, colon, number = word.partition(":")
        if colon and (number not in map(str, SEVERITIES) or name == CLEAN):
            raise UsageError(f"--shifts: expected NAME or NAME:SEVERITY with a severity of 1 to 5, got {word!r}")
        if name == "frost" and name not in data.shifts and CLEAN in data.shifts:
            raise UsageError("--shifts: frost is made from pictures of frost; name a folder of them by --frost")
        if name == CLEAN and CLEAN not in data.shifts:
            raise UsageError(f"--shifts: {data.name} has no clean images; leave 'none' out")
        if name not in ("all", MIXED, *data.shifts):
            raise UsageError(f"--shifts: unknown shift {name!r}; there is all, mixed, {', '.join(data.shifts)}")
        if name in ("all", MIXED) and not data.corruptions:
            raise UsageError(
                f"--shifts: {data.name} here has none of the benchmark's corruptions, which {name!r} means"
            )
        severities = [int(number)] if colon else [0] if name in (CLEAN, MIXED) else SEVERITIES
        found += [Condition(n, k) for n in (data.corruptions if name == "all" else [name]) for k in severities]
    return list(dict.fromkeys(found))


def sizes(text: str, images: int) -> list[int]:
    """Batch sizes in rising order; ``full`` is all images at once.

    Raises
    ------
    UsageError
        If a word is neither that nor a number of images there are.
    """
    found = set()
    for word in _words("--batches", text):
        size = images if word == "full" else int(word) if word.isdecimal() and len(word) < 10 else 0
        if not 1 <= size <= images:
            raise UsageError(f"--batches: expected sizes from 1 to the {images} images, or 'full', got {word!r}")
        found.add(size)
    return sorted(found)


def estimators(text: str) -> dict[str, Estimator | None]:
    """Estimators by name, ``trained`` without one.

    Raises
    ------
    UsageError
        If a word is not ``trained``, ``batch``, ``stein``, ``prior:N``, a name of the studies or ``module:Rule``.
    """
    plain = {TRAINED: None, "batch": BatchStatistics(), "stein": SteinBlend()}
    found: dict[str, Estimator | None] = {}
    for word in _words("--estimators", text):
        if word in plain:
            found[word] = plain[word]
            continue
        name, colon, number = word.partition(":")
        if word in RULES or (colon and name != "prior"):
            try:
                found[word] = named(word)
            except ValueError as error:
                raise UsageError(f"--estimators: {error}") from error
            continue
        try:
            rule = PriorBlend(float(number))
        except ValueError as error:
            raise UsageError(
                "--estimators: expected trained, batch, stein, prior:N with N from 0 to inf or module:Rule, "
                f"got {word!r}"
            ) from error
        found[f"prior:{rule.strength:g}"] = rule
    return found


def _words(option: str, text: str) -> list[str]:
    words = [word for word in re.split(r"[,\s]+", text) if word]
    if not words:
        raise UsageError(f"{option} is empty; leave it out for what is usual")
    return words
