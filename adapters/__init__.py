"""Thin wires from the estimators into other libraries; nothing here is loaded by ``import shrinkstats``."""
