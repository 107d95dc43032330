"""Normalizations under attack on CIFAR-10: ``python -m benchmarks.cifar10``."""
