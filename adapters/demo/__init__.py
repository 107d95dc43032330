"""The demo: a network trained on real digits, evaluated on shifted ones with four kinds of batch norm statistics."""

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
from shrinkstats.adapters.demo import report
from shrinkstats.adapters.demo.digits import SHIFTS, load
from shrinkstats.adapters.demo.evaluation import BATCH_SIZES, RULES, evaluate, passes
from shrinkstats.adapters.demo.network import BATCH, train
from shrinkstats.adapters.demo.picture import draw
from shrinkstats.adapters.torch import calibrate

EPOCHS = 15
SHUFFLES = 2


def run(
    output: Path, *, seed: int = 0, epochs: int = EPOCHS, shuffles: int = SHUFFLES, quiet: bool = False
) -> dict[str, Any]:
    """Train, shift, compare; print a table and write results.json and accuracy.png.

    Parameters
    ----------
    output : Path
        A folder, made where there is none; the two files in it are overwritten.
    seed : int
        Of the split, the training, the noise and the batches. The same seed gives the same numbers.
    epochs : int
        Passes over the training images.
    shuffles : int
        How often the test images are dealt into batches anew.
    quiet : bool
        Print nothing.

    Returns
    -------
    dict
        What results.json holds.
    """
    output.mkdir(parents=True, exist_ok=True)
    with _reproducible(seed), report.progress(quiet) as stages:
        start = time.perf_counter()
        training, test = load(seed)
        network = train(training, epochs=epochs, after_epoch=stages("training", epochs))
        trained = time.perf_counter()
        calibrate(network, training.images.split(BATCH), batches=len(training.images))
        hits = evaluate(network, test, seed=seed, shuffles=shuffles, after_pass=stages("evaluation", passes(shuffles)))
        evaluated = time.perf_counter()
    results = {
        **report.summary(hits, list(RULES), list(SHIFTS), list(BATCH_SIZES)),
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
    with whole(output / "results.json") as temporary:
        temporary.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    with whole(output / "accuracy.png") as temporary:
        draw(results, temporary)
    if not quiet:
        report.show(results)
        print(f"\nThe numbers: {output / 'results.json'}\nThe picture: {output / 'accuracy.png'}")
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
