"""What is known exactly, and what can be verified, about shrinkage estimators."""

from shrinkstats.theory.blend_distance import Simulated, simulate_blend_distance
from shrinkstats.theory.certificate import Certificate, certify
from shrinkstats.theory.costs import training_passes
from shrinkstats.theory.dominance import verify_dominance
from shrinkstats.theory.lipschitz import Lipschitz, lipschitz
from shrinkstats.theory.noise import (
    ClippedCauchy,
    Gaussian,
    Noise,
    Rademacher,
    Sparse,
    TruncatedGaussian,
    Uniform,
    WorstCase,
)
from shrinkstats.theory.popoviciu import robustnorm_scale_bounds, variance_bounds
from shrinkstats.theory.report import DominanceReport
from shrinkstats.theory.risk import bayes_risk, james_stein_risk, minimax_risk
from shrinkstats.theory.rules import ChannelJamesStein, JamesStein, SampleMean, SymmetricRule
from shrinkstats.theory.sure import symmetric_unbiased_risk, unbiased_risk

__all__ = [
    "Certificate",
    "ChannelJamesStein",
    "ClippedCauchy",
    "DominanceReport",
    "Gaussian",
    "JamesStein",
    "Lipschitz",
    "Noise",
    "Rademacher",
    "SampleMean",
    "Simulated",
    "Sparse",
    "SymmetricRule",
    "TruncatedGaussian",
    "Uniform",
    "WorstCase",
    "bayes_risk",
    "certify",
    "james_stein_risk",
    "lipschitz",
    "minimax_risk",
    "robustnorm_scale_bounds",
    "simulate_blend_distance",
    "symmetric_unbiased_risk",
    "training_passes",
    "unbiased_risk",
    "variance_bounds",
    "verify_dominance",
]
