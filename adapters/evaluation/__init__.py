"""A checkpoint evaluated on shifted images: what the commands ``evaluate`` and ``shift`` do."""

from shrinkstats.adapters.evaluation import request
from shrinkstats.adapters.evaluation.checkpoint import load_network
from shrinkstats.adapters.evaluation.data import open_data
from shrinkstats.adapters.evaluation.report import progress, show
from shrinkstats.adapters.evaluation.run import begin, compare, measure, write
from shrinkstats.adapters.evaluation.subject import Subject, prepare

__all__ = [
    "Subject",
    "begin",
    "compare",
    "load_network",
    "measure",
    "open_data",
    "prepare",
    "progress",
    "request",
    "show",
    "write",
]
