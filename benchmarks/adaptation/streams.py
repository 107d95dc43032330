"""Small batches as a stream: how many images to remember (`adapt(memory=)`), where the shift changes now and then.

    python -m benchmarks.streams --data FOLDER --weights FILE.safetensors

Each shift lasts for --images images; then comes the next, unannounced.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch

from benchmarks.lab import cifar
from benchmarks.lab.record import save
from shrinkstats.adapters.robustness import corrupt
from shrinkstats.adapters.robustness.protocols import ranks
from shrinkstats.adapters.torch import adapt, reset

SHIFTS = [
    ("none", 0), ("gaussian_noise", 3), ("contrast", 5), ("none", 0), ("motion_blur", 3), ("jpeg_compression", 5),
    ("fog", 3), ("pixelate", 3),
]  # fmt: skip
EARLY = 32  # images after a change that are looked at on their own


def main() -> None:
    """Measure, print, record."""
    parser = cifar.options(__doc__, images=512)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--memories", type=int, nargs="+", default=[16, 64, 256])
    args = parser.parse_args()
    settings = {**cifar.settings(args), "shifts": SHIFTS}
    each, args.images = args.images, args.images * len(SHIFTS)
    net, clean, labels, prepare = cifar.load(args)
    parts = [slice(each * i, each * (i + 1)) for i in range(len(SHIFTS))]
    images = [
        prepare(corrupt(clean[part], name, severity, seed=args.seed) if severity else clean[part])
        for part, (name, severity) in zip(parts, SHIFTS, strict=True)
    ]
    loader = [(x, torch.from_numpy(labels[part])) for x, part in zip(images, parts, strict=True)]
    rows: list[dict[str, Any]] = []
    for batch in args.batches:
        for memory in (0, None, *args.memories):  # 0: the network as it was trained
            with torch.autocast("cpu", torch.bfloat16, enabled=args.bfloat16):
                right = ranks(reset(net) if memory == 0 else adapt(net, memory=memory), loader, batch) == 0
            by_shift = right.reshape(len(SHIFTS), each)
            blocks = right.reshape(-1, 64).mean(1)
            rows.append(
                {
                    "batch": batch, "memory": memory, "accuracy": float(right.mean()),
                    "standard_error": float(blocks.std(ddof=1) / np.sqrt(len(blocks))),
                    "early": float(by_shift[:, :EARLY].mean()), "by_shift": by_shift.mean(1).tolist(),
                }
            )  # fmt: skip
            print(
                f"n = {batch}, memory {memory}: {rows[-1]['accuracy']:.3f}, early {rows[-1]['early']:.3f}", flush=True
            )
    print(f"recorded in {save('streams', {**settings, 'early': EARLY, 'rows': rows})}")


if __name__ == "__main__":
    warnings.simplefilter("error")
    main()
