"""What defences cost in training, counted in passes over the network."""

from __future__ import annotations

from collections.abc import Callable

from shrinkstats.theory.arguments import at_least

PASSES: dict[str, Callable[[int], int]] = {
    "none": lambda steps: 2,
    "ABNN": lambda steps: 2 + 1,
    "FGSM-AT": lambda steps: 2 * (1 + 1),
    "PGD-AT": lambda steps: 2 * (steps + 1),
}


def training_passes(defence: str, *, steps: int = 5) -> int:
    """Passes over a network that one training step makes; a forward or a backward pass counts as one.

    In units of N, the cost of one pass, with t the steps of the attack that training is made against:

    ========= ======== ===========================================================================
    defence   passes   what they are
    ========= ======== ===========================================================================
    none      2        forward and backward
    ABNN      3        the same, and a forward pass of the substitute network that gives statistics
    FGSM-AT   4        adversarial training against a single step
    PGD-AT    2(t+1)   forward and backward in every step of the attack, then those that train
    ========= ======== ===========================================================================

    Parameters
    ----------
    defence : {"none", "ABNN", "FGSM-AT", "PGD-AT"}
        Batch statistics in evaluation, Stein's included, are no defence in training: "none".
    steps : int
        t, at least 1; for "PGD-AT".

    Returns
    -------
    int
        Multiples of N.

    Raises
    ------
    ValueError
        If there is no such defence or `steps` is below 1.

    References
    ----------
    Lo & Patel (AVSS 2024), "Adaptive batch normalization networks for adversarial robustness", training time
    complexity: ABNN 2N + N, PGD-AT 2N t + 2N, and 2N without a defence; its tables have t = 5. The substitute
    network counts as N there, whatever its size. FGSM-AT is PGD-AT with t = 1.

    Examples
    --------
    >>> from shrinkstats.theory import training_passes
    >>> training_passes("ABNN"), training_passes("PGD-AT", steps=5)
    (3, 12)
    """
    if not isinstance(defence, str) or defence not in PASSES:
        raise ValueError(f"defence must be one of {', '.join(PASSES)}, got {defence!r}")
    return PASSES[defence](at_least("steps", 1, steps))
