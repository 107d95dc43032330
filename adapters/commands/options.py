"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

AllRows = Annotated[bool, typer.Option("--all", help="Show every channel of a long table.")]

# What `evaluate` and `shift` look at: a network and images.
Checkpoint = Annotated[Path, typer.Argument(help="A state dict: .safetensors, or .pt or .pth of tensors alone.")]
Data = Annotated[Path, typer.Argument(help="A folder of CIFAR-10, CIFAR-100, CIFAR-10-C, CIFAR-100-C or ImageNet-C.")]
Model = Annotated[str, typer.Option(help="The network: resnet20, resnet18, vgg16, ...; a wrong name lists them.")]
Mean = Annotated[
    tuple[float, float, float], typer.Option(help="Of the training images' three channels, scaled to [0, 1].")
]
Std = Annotated[tuple[float, float, float], typer.Option(help="Their standard deviation, likewise.")]
TrainingData = Annotated[
    Path | None,
    typer.Option(
        help="A folder of CIFAR's training images, on which the noise of batch statistics is measured. Left out: DATA, "
        "if it has them.",
        show_default=False,
    ),
]
Frost = Annotated[
    Path | None,
    typer.Option(
        help="A folder of pictures of frost (.png, .jpg), which that corruption is made from.", show_default=False
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Chooses the images; same seed, same numbers.")]

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
