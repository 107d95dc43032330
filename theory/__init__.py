"""What is known exactly, and what can be verified, about shrinkage estimators."""

from shrinkstats.theory.risk import james_stein_risk

__all__ = ["james_stein_risk"]
