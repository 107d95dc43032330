"""What the fuzzers share: one decorator, whose number of examples the profile decides, and a count of the cases."""

from collections import Counter
from functools import wraps

from hypothesis import HealthCheck, Phase, given, settings

cases = Counter()
"""How many cases ran, by test."""

# A case is small, and rebuilt from its description: among all tests, looking for a smaller one would take minutes.
PHASES = (
    tuple(Phase) if settings().database is None and not settings().derandomize else (Phase.explicit, Phase.generate)
)
SHARE = 0.4
"""Of the examples of other tests: a minute in all."""
QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


def fuzz(share=1.0, **strategies):
    """`hypothesis.given`, with a share of the profile's examples."""

    def decorate(test):
        @settings(
            max_examples=max(1, round(share * SHARE * settings().max_examples)),
            suppress_health_check=QUIET,
            phases=PHASES,
        )
        @given(**strategies)
        @wraps(test)
        def counted(*args, **drawn):
            cases[test.__module__, test.__name__] += 1
            return test(*args, **drawn)

        return counted

    return decorate
