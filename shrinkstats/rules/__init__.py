"""The rules of a normalization layer, one a file; :mod:`shrinkstats.estimators` is their face."""
