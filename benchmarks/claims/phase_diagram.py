"""Where Stein shrinkage still dominates the sample mean under an attack: strength by radius, noise model and dimension.

    python -m benchmarks.phase_diagram [--dims 3 16 64 512]
    python -m benchmarks.phase_diagram --draw

Observations are Gaussian with standard deviation 1; the attack's is its strength (for ClippedCauchy it is the published
sigma, and data are clipped to plus or minus 2, as an image in [0, 1] with standard deviation 1/4). Three rules:
James-Stein with the noise estimated from the attacked sample, with the noise of a clean one, and the published plug-in.
Results are written after every panel, and a run that was interrupted goes on.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import Normalize
from PIL import Image

from benchmarks.lab.command import options
from benchmarks.lab.plots import STATIC
from benchmarks.lab.record import RESULTS, load, save
from shrinkstats._files import whole
from shrinkstats.theory.dominance import verify_dominance
from shrinkstats.theory.noise import ClippedCauchy, Gaussian, Noise, Rademacher, Sparse, TruncatedGaussian, Uniform
from shrinkstats.theory.rules import ChannelJamesStein, JamesStein

N = 8
STRENGTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
RADII = (0.0, 0.5, 1.0, 2.0, 4.0)  # times sqrt(dim): standard errors of every mean
REPLICATES = {3: 2**17, 16: 2**16, 64: 2**15, 512: 2**13}  # at most at a point, by the number of channels
CONFIDENCE = 0.99
RULES: dict[str, dict[str, Any]] = {
    "estimated noise": {"estimator": JamesStein()},
    "clean noise": {"estimator": JamesStein(), "known_variance": 1.0},
    "published": {"estimator": ChannelJamesStein()},
}
LABELS = {
    "estimated noise": "James-Stein, noise\nof the attacked sample",
    "clean noise": "James-Stein, noise\nof a clean sample",
    "published": "published rule, noise from\nthe spread of the channels",
}
COLOURS = plt.get_cmap("PuOr_r", 49)  # few enough for a palette of 256 with all shades of the letters
FAR = 3  # colours end at 2**FAR and its inverse
MODELS = ("Gaussian", "Rademacher", "Uniform", "TruncatedGaussian", "ClippedCauchy", "Sparse")


def attack(model: str, strength: float, common: bool) -> Noise:
    """The noise model of this name."""
    kinds: dict[str, Any] = {k.__name__: k for k in (Gaussian, Rademacher, Uniform, TruncatedGaussian, Sparse)}
    if model == "ClippedCauchy":
        return ClippedCauchy(strength, low=-2.0, high=2.0, common=common)
    found: Noise = kinds[model](strength, common=common)
    return found


def panel(model: str, common: bool, dim: int, rule: str, seed: int) -> dict[str, Any]:
    """Ratios of the risks and signs of their difference: a row for every strength, a column for every radius."""
    ratios, signs = [], []
    # Farther than the range of the clip no image has its values: only the diagonal keeps all channels within.
    directions = ["diagonal"] if model == "ClippedCauchy" else None
    for strength in STRENGTHS:
        report = verify_dominance(
            dim=dim,
            n=N,
            attack=attack(model, strength, common),
            radii=[math.sqrt(dim) * r for r in RADII],
            confidence=CONFIDENCE,
            seed=seed,
            budget=REPLICATES.get(dim, 2**14),
            refine=0,
            certificate=False,
            directions=directions,
            progress=False,
            **RULES[rule],
        )
        by_radius = [[row for row in report.rows if row.radius == r] for r in report.settings["radii"]]
        ratios.append([round(max(r.tally.estimator / r.tally.baseline for r in rows), 4) for rows in by_radius])
        signs.append("".join(_sign([row.sign for row in rows]) for rows in by_radius))
    return {"model": model, "common": common, "dim": dim, "rule": rule, "ratio": ratios, "sign": signs}


def _sign(signs: list[int]) -> str:
    """Over the directions: better in all, worse in one, or open."""
    return "-" if set(signs) == {-1} else "+" if 1 in signs else "0"


def draw(result: dict[str, Any], model: str, common: bool) -> Path:
    """A picture for a noise model: a row for every rule, a column for every number of channels."""
    panels = {(p["dim"], p["rule"]): p for p in result["panels"] if (p["model"], p["common"]) == (model, common)}
    dims = sorted({dim for dim, _ in panels})
    figure, axes = plt.subplots(
        len(RULES), len(dims), figsize=(2.3 * len(dims) + 1.7, 7.6), sharex=True, sharey=True, squeeze=False
    )
    norm = Normalize(-FAR, FAR)
    for row, rule in zip(axes, RULES, strict=True):
        for axis, dim in zip(row, dims, strict=True):
            values, signs = panels[dim, rule]["ratio"], panels[dim, rule]["sign"]
            colours = axis.imshow(np.log2(values), cmap=COLOURS, norm=norm, origin="lower", aspect="auto")
            for y, x in np.ndindex(np.shape(values)):
                _write(axis, x, y, values[y][x], signs[y][x])
            axis.set_xticks(range(len(RADII)), [f"{r:g}" for r in RADII])
            axis.set_yticks(range(len(STRENGTHS)), [f"{s:g}" for s in STRENGTHS])
            axis.tick_params(length=0, labelsize=8)
            if rule == next(iter(RULES)):
                axis.set_title(f"{dim} channels", fontsize=10)
        row[0].set_ylabel(f"{LABELS[rule]}\n\nstrength of the attack", fontsize=9)
    for axis in axes[-1]:
        axis.set_xlabel("distance of the truth", fontsize=9)
    whom = "one draw for the whole batch" if common else "a draw for every observation"
    figure.suptitle(f"{model} attack, {whom}: risk over the sample mean's", fontsize=12)
    figure.tight_layout(rect=(0, 0, 0.915, 1))
    bar = figure.colorbar(colours, cax=figure.add_axes((0.925, 0.3, 0.013, 0.5)), extend="both")
    bar.set_ticks(range(-FAR, FAR + 1), labels=[f"1/{2**-k}" if k < 0 else f"{2**k}" for k in range(-FAR, FAR + 1)])
    figure.text(0.918, 0.22, "bold: worse\n?: open", fontsize=8, va="top")
    path = STATIC / f"phase_{model.lower()}_{'common' if common else 'each'}.png"
    with whole(path) as temporary:
        figure.savefig(temporary, dpi=100)
    plt.close(figure)
    with Image.open(path) as image:
        image.convert("RGB").quantize(method=Image.Quantize.MAXCOVERAGE).save(path, optimize=True)
    return path


def _write(axis: Any, x: int, y: int, ratio: float, sign: str) -> None:
    """The ratio into its cell."""
    text = "<.01" if ratio < 0.01 else f"{ratio:.1f}" if ratio >= 9.95 else f"{ratio:.2f}"
    axis.text(
        x,
        y,
        text + "?" * (sign == "0"),
        ha="center",
        va="center",
        fontsize=8.5,
        fontweight="bold" if sign == "+" else "normal",
        color="white" if abs(np.log2(max(ratio, 1e-9))) > FAR / 2 else "black",
    )


def measure(dims: list[int], seed: int) -> None:
    """Every panel that is not recorded yet."""
    settings = {
        "n": N,
        "strengths": list(STRENGTHS),
        "radii": list(RADII),
        "replicates": {str(dim): count for dim, count in REPLICATES.items()},
        "confidence": CONFIDENCE,
        "seed": seed,
    }
    panels: list[dict[str, Any]] = []
    if (RESULTS / "phase_diagram.json").exists():
        before = load("phase_diagram")
        if all(before.get(key) == json.loads(json.dumps(value)) for key, value in settings.items()):
            panels = before["panels"]
    done = {(p["model"], p["common"], p["dim"], p["rule"]) for p in panels}
    for dim in sorted(dims):
        for model in MODELS:
            for common in (False, True):
                for rule in RULES:
                    if (model, common, dim, rule) not in done:
                        panels.append(panel(model, common, dim, rule, seed))
                        save("phase_diagram", {**settings, "panels": panels})
                print(f"{dim} channels, {model}, {'common' if common else 'each'}: done", flush=True)


def main() -> None:
    """Measure, record, draw."""
    parser = options(__doc__)
    parser.add_argument("--dims", type=int, nargs="+", default=[3, 16, 64, 512])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--draw", action="store_true", help="draw the recorded result and measure nothing")
    arguments = parser.parse_args()
    if not arguments.draw:
        measure(arguments.dims, arguments.seed)
    result = load("phase_diagram")
    for model in MODELS:
        for common in (False, True):
            print(f"drawn in {draw(result, model, common)}")


if __name__ == "__main__":
    main()
