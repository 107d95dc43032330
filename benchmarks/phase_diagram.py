"""Where Stein shrinkage still dominates the sample mean under an attack: strength by radius, noise model and dimension.

    python -m benchmarks.phase_diagram [--dims 3 16 64 512]

Observations are Gaussian with standard deviation 1; the attack's is its strength (for ClippedCauchy it is the published
sigma, and data are clipped to plus or minus 2, as an image in [0, 1] with standard deviation 1/4). Three rules:
James-Stein with the noise estimated from the attacked sample, with the noise of a clean one, and the published plug-in.
Results are written after every panel, and a run that was interrupted goes on.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import TwoSlopeNorm

from benchmarks.record import RESULTS, load, save
from shrinkstats.theory.dominance import verify_dominance
from shrinkstats.theory.noise import ClippedCauchy, Gaussian, Noise, Rademacher, Sparse, TruncatedGaussian, Uniform
from shrinkstats.theory.rules import ChannelJamesStein, JamesStein

STATIC = Path(__file__).parents[1] / "docs" / "_static"
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


def draw(result: dict[str, Any], common: bool) -> Path:
    """One picture for attacks of every observation, one for those common to the batch."""
    panels = {(p["model"], p["dim"], p["rule"]): p for p in result["panels"] if p["common"] == common}
    dims = sorted({dim for _, dim, _ in panels})
    columns = [(dim, rule) for rule in RULES for dim in dims]
    figure, axes = plt.subplots(
        len(MODELS), len(columns), figsize=(1.05 * len(columns) + 2.2, 8.2), sharex=True, sharey=True, squeeze=False
    )
    norm = TwoSlopeNorm(0.0, -1.0, 1.0)
    image = None
    for i, model in enumerate(MODELS):
        for j, (dim, rule) in enumerate(columns):
            axis, cell = axes[i][j], panels[model, dim, rule]
            image = axis.imshow(np.log2(cell["ratio"]), cmap="PuOr_r", norm=norm, origin="lower", aspect="auto")
            for y, row in enumerate(cell["sign"]):
                for x, sign in enumerate(row):
                    mark = {"-": "", "+": "×", "0": "?"}[sign]
                    axis.text(x, y, mark, ha="center", va="center", fontsize=8)
            axis.set_xticks(range(len(RADII)), [f"{r:g}" for r in RADII], fontsize=6.5)
            axis.set_yticks(range(len(STRENGTHS)), [f"{s:g}" for s in STRENGTHS], fontsize=6.5)
            axis.tick_params(length=0)
            if i == 0:
                axis.set_title(f"{rule}\n{dim}" if j % len(dims) == 0 else f"{dim}", fontsize=8, loc="left")
            if j == 0:
                axis.set_ylabel(model, fontsize=8)
    figure.supxlabel(
        "distance of the true mean from the target, in standard errors of every channel's mean", fontsize=9
    )
    figure.supylabel("strength of the attack, in standard deviations of an observation", fontsize=9)
    whom = "one draw for the whole batch" if common else "a draw for every observation"
    figure.suptitle(f"Risk over the sample mean's under attack, {whom} (columns: channels)", fontsize=11)
    figure.subplots_adjust(left=0.075, right=0.92, top=0.885, bottom=0.085, wspace=0.08, hspace=0.12)
    bar = figure.colorbar(image, cax=figure.add_axes((0.935, 0.2, 0.012, 0.55)), extend="both")
    bar.set_ticks([-1, 0, 1], labels=["1/2", "1", "2"])
    bar.ax.set_title("ratio", fontsize=8)
    figure.text(0.927, 0.15, "× worse\n  in some\n  direction\n? open", fontsize=7.5, va="top")
    path = STATIC / f"phase_{'common' if common else 'each'}.png"
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def main() -> None:
    """Measure, record, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dims", type=int, nargs="+", default=[3, 16, 64, 512])
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    settings = {
        "n": N,
        "strengths": list(STRENGTHS),
        "radii": list(RADII),
        "replicates": {str(dim): count for dim, count in REPLICATES.items()},
        "confidence": CONFIDENCE,
        "seed": arguments.seed,
    }
    panels: list[dict[str, Any]] = []
    if (RESULTS / "phase_diagram.json").exists():
        before = load("phase_diagram")
        if all(before.get(key) == json.loads(json.dumps(value)) for key, value in settings.items()):
            panels = before["panels"]
    done = {(p["model"], p["common"], p["dim"], p["rule"]) for p in panels}
    for dim in sorted(arguments.dims):
        for model in MODELS:
            for common in (False, True):
                for rule in RULES:
                    if (model, common, dim, rule) not in done:
                        panels.append(panel(model, common, dim, rule, arguments.seed))
                        save("phase_diagram", {**settings, "panels": panels})
                print(f"{dim} channels, {model}, {'common' if common else 'each'}: done", flush=True)
    result = load("phase_diagram")
    for common in (False, True):
        print(f"drawn in {draw(result, common)}")


if __name__ == "__main__":
    main()
