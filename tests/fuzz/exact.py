"""The formulas on vectors in 60-digit arithmetic, whose exponents have no limits: nothing rounds, nothing overflows.

Every function takes lists of Decimal. Derivatives are differences over a step of 1e-25: exact, for a float.
"""

from decimal import Context, Decimal, localcontext
from functools import wraps

CONTEXT = Context(prec=60, Emin=-(10**9), Emax=10**9, traps=[])
STEP = Decimal("1e-25")
ZERO, ONE, TWO = Decimal(0), Decimal(1), Decimal(2)


def numbers(values):
    """Floats as they are, to the last bit."""
    return [Decimal(float(v)) for v in values]


def precisely(function):
    """Computed in the wide context."""

    @wraps(function)
    def wide(*args, **kwargs):
        with localcontext(CONTEXT):
            return function(*args, **kwargs)

    return wide


def sign(x):
    return -1 if x < 0 else 1


@precisely
def james_stein(mean, noise, target=None, *, df=None, positive_part=True):
    """Bock's; target None is the grand mean."""
    c, pooled = len(mean), target is None
    if df is not None:
        noise = [v * df / (df + 2) for v in noise]
    target = [sum(mean) / c] * c if pooled else target
    if c < (4 if pooled else 3):
        return [*mean, ONE]
    squares = sum((m - t) ** 2 for m, t in zip(mean, target, strict=True))
    share = Decimal(c - 1) / c if pooled else ONE
    amount = max(ZERO, share * sum(noise) - 2 * max(noise))
    factor = ZERO if squares == 0 else ONE - amount / squares
    factor = max(ZERO, factor) if positive_part else factor
    return [*(t + factor * (m - t) for m, t in zip(mean, target, strict=True)), factor]


@precisely
def channel_james_stein(mean):
    c = len(mean)
    if c < 3:
        return [*mean, ONE]
    average = sum(mean) / c
    squares = sum(m * m for m in mean)
    spread = sum((m - average) ** 2 for m in mean)
    factor = ZERO if squares == 0 else ONE - Decimal(c - 2) / (c + 1) * spread / squares
    return [*(factor * m for m in mean), factor]


@precisely
def gamma_stein(var, n):
    c = len(var)
    geometric = ZERO if min(var) == 0 else (sum(v.ln() for v in var) / c).exp()
    m = 4 * (c - 1) * n / ((n + 1) * ((n - 1) * c + 2))
    return [n / (n + 1) * v + m * geometric for v in var]


@precisely
def blend(source_mean, source_var, mean, var, n, strength):
    w = strength / (strength + n) if strength.is_finite() else ONE
    return [w * s + (1 - w) * t for s, t in zip([*source_mean, *source_var], [*mean, *var], strict=True)]


@precisely
def stein_blend(source_mean, source_var, mean, var, noise, sd=None, bias=None, kappa=ONE):
    c = len(mean)
    votes = [i for i in range(c) if source_var[i] > 0]
    unit = [v.sqrt() for v in source_var]
    d = {i: (mean[i] - source_mean[i]) / unit[i] for i in votes}

    def weight(chance, evidence):
        return ZERO if evidence == 0 else max(ZERO, ONE - kappa * chance / evidence)

    evidence = sum((d[i] ** 2 for i in votes), ZERO)
    if sd is None:
        w = weight(sum((noise[i] / source_var[i] for i in votes), ZERO), evidence)
        return [w * t + (1 - w) * s for s, t in zip([*source_mean, *source_var], [*mean, *var], strict=True)]
    clean = [var[i].sqrt() / (1 + bias[i]) if 1 + bias[i] > 0 else unit[i] for i in range(c)]
    ratio = {i: clean[i] / unit[i] for i in votes}
    w = weight(sum((noise[i] / source_var[i] * ratio[i] ** 2 for i in votes), ZERO), evidence)
    square = sum((r * r for r in ratio.values()), ZERO) / max(1, len(votes))
    w_sd = weight(square * sum((sd[i] for i in votes), ZERO), sum(((r - 1) ** 2 for r in ratio.values()), ZERO))
    return [
        *((1 - w) * s + w * t for s, t in zip(source_mean, mean, strict=True)),
        *(((1 - w_sd) * s + w_sd * t) ** 2 for s, t in zip(unit, clean, strict=True)),
    ]


@precisely
def ridge(mean, var, n, strength):
    return [*(m * n / (n + strength) for m in mean), *(v / (1 + strength) for v in var)]


@precisely
def soft_threshold(mean, var, n, strength):
    def soft(x, threshold):
        return max(ZERO, abs(x) - threshold) * sign(x)

    return [*(soft(m, strength / (2 * n)) for m in mean), *(soft(v, strength / 2) for v in var)]


@precisely
def wasserstein2(mean_a, var_a, mean_b, var_b, *, normalized=False):
    rows = zip(mean_a, var_a, mean_b, var_b, strict=True)
    return [((a - b) ** 2 + (v.sqrt() - w.sqrt()) ** 2) / (v if normalized else 1) for a, v, b, w in rows]


@precisely
def wasserstein_bounds(mean_s, var_s, mean_t, var_t, *, n, strength, q):
    """Prop. 1 of Schneider et al. (2020): all lower bounds, then all upper ones."""
    lower, upper = [], []
    for m_s, v_s, m_t, v_t in zip(mean_s, var_s, mean_t, var_t, strict=True):
        if strength.is_infinite():
            low, add = (v_t.sqrt() - v_s.sqrt()) ** 2 + (m_t - m_s) ** 2, ZERO
        else:
            total = strength + n
            blended = strength / total * v_s + (n - 1) / total * v_t
            low = (v_t.sqrt() - blended.sqrt()) ** 2
            low += (strength / total) ** 2 * (m_t - m_s) ** 2 + n / total**2 * v_t
            smallest = strength / total * v_s + q / total * v_t
            half = smallest.sqrt() ** 3
            add = ZERO if v_t == 0 or n == 1 else v_t.sqrt() ** 5 * (n - 1) / (2 * total**2) / half
        lower.append(low)
        upper.append(low + add)
    return [*lower, *upper]


@precisely
def moved(values, sizes, rng):
    """Every number changed by a share of at most its size, at random."""
    return [v * (1 + Decimal(s * rng.uniform(-1, 1))) for v, s in zip(values, sizes, strict=True)]


@precisely
def differences(a, b):
    return [abs(x - y) for x, y in zip(a, b, strict=True)]


@precisely
def slope(function, vectors, directions):
    """The derivative of every result along a direction of all vectors together."""

    def at(step):
        return function(
            *([v + step * d for v, d in zip(*pair, strict=True)] for pair in zip(vectors, directions, strict=True))
        )

    return [(a - b) / (2 * STEP) for a, b in zip(at(STEP), at(-STEP), strict=True)]
