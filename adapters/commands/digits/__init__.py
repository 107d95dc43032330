"""What the demo does: a network trained on real digits, and four kinds of batch norm statistics for shifted ones."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from shrinkstats._files import whole
from shrinkstats.adapters.commands.digits.data import SHIFTS, load
from shrinkstats.adapters.commands.digits.evaluation import BATCH_SIZES, RULES, evaluate, passes
from shrinkstats.adapters.commands.digits.network import BATCH, train
from shrinkstats.adapters.commands.digits.picture import draw
from shrinkstats.adapters.commands.digits.summary import summary
from shrinkstats.adapters.commands.screen import Stages
from shrinkstats.adapters.torch import calibrate

EPOCHS = 15
SHUFFLES = 2
RESULTS, PICTURE = "results.json", "accuracy.png"


def run(output: Path, stages: Stages, *, seed: int, epochs: int, shuffles: int) -> dict[str, Any]:
    """Train, shift, compare; write results.json and accuracy.png.

    Parameters
    ----------
    output : Path
        A folder, made where there is none; the two files in it are overwritten.
    stages : callable
        Takes what is done and how many steps it has; gives a function that is called after each step.
    seed : int
        Of the split, the training, the noise and the batches. The same seed gives the same numbers.
    epochs : int
        Passes over the training images.
    shuffles : int
        How often the test images are dealt into batches anew.

    Returns
    -------
    dict
        What results.json holds.
    """
    output.mkdir(parents=True, exist_ok=True)
    with _reproducible(seed):
        start = time.perf_counter()
        training, test = load(seed)
        network = train(training, epochs=epochs, after_epoch=stages("training", epochs))
        trained = time.perf_counter()
        calibrate(network, training.images.split(BATCH), batches=len(training.images))
        hits = evaluate(network, test, seed=seed, shuffles=shuffles, after_pass=stages("evaluation", passes(shuffles)))
        evaluated = time.perf_counter()
    results = {
        **summary(hits, list(RULES), list(SHIFTS), list(BATCH_SIZES)),
        "settings": {
            "seed": seed,
            "epochs": epochs,
            "shuffles": shuffles,
            "training_images": len(training.images),
            "test_images": len(test.images),
        },
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("shrinkstats", "torch", "numpy", "scikit-learn")},
        },
        "machine": {"system": platform.system(), "architecture": platform.machine(), "cores": os.cpu_count()},
        "seconds": {"training": round(trained - start, 1), "evaluation": round(evaluated - trained, 1)},
    }
    with whole(output / RESULTS) as temporary:
        temporary.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    with whole(output / PICTURE) as temporary:
        draw(results, temporary)
    return results


@contextmanager
def _reproducible(seed: int) -> Iterator[None]:
    """One seed and one thread, whose sums do not depend on the number of cores; and then all as it was before."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # faster, too: an image here is 64 numbers
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)
