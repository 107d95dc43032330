"""Calls that may write where they must not, in a process of their own: what became of them, whatever it was.

Run as a script it is that process: cases come in, pickled, and outcomes go out.
"""

import contextlib
import pickle
import subprocess
import sys
from pathlib import Path


class Child:
    """A process that tries one case at a time; one that died is replaced for the next."""

    def __init__(self):
        self.process = None

    def attempt(self, case):
        """(outcome of ours, outcome of PyTorch's), or what the process died of."""
        if self.process is None:
            command = [sys.executable, "-W", "ignore", __file__]
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            pickle.dump(case, self.process.stdin)
            self.process.stdin.flush()
            return pickle.load(self.process.stdout)
        except (EOFError, BrokenPipeError):
            died = f"the process died: exit status {self.process.wait()}"
            self.close()
            return died, None

    def close(self):
        if self.process is not None:
            for pipe in (self.process.stdin, self.process.stdout):
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
            self.process.wait()
            self.process = None


def outcome(layer, x):
    """The error of a forward and backward pass, and whether it left the buffers alone; or the shape."""
    before = {k: v.clone() for k, v in layer.state_dict().items()}
    try:
        y = layer(x)
        if y.requires_grad:
            y.sum().backward()
    except Exception as error:
        after = layer.state_dict()
        kept = all(bool((before[k] == after[k]).all()) for k in before if k != "num_batches_tracked")
        return type(error).__name__, str(error), kept
    return "normalized", tuple(y.shape), True


def attempt(case):
    """Ours and PyTorch's layer of one number of channels on a tensor of another."""
    import torch

    from shrinkstats.adapters import torch as adapters

    torch.set_num_threads(1)
    name, options = f"BatchNorm{case['dimensions']}d", case["options"]
    ours, theirs = (
        getattr(module, prefix + name)(case["features"], **options, **more)
        for module, prefix, more in ((adapters, "Shrink", {"estimator": case["rule"]}), (torch.nn, "", {}))
    )
    rivals = [ours, theirs]
    for layer in rivals:
        layer.train(case["training"])
    if case["adaptation"] is not None:
        ours.adaptation = case["adaptation"]
    if case["calibrated"] and ours.running_mean is not None:
        c = case["features"]
        ours.noise_mean, ours.noise_sd, ours.noise_sd_bias = torch.ones(c), torch.ones(2, c), torch.zeros(2, c)
    ours.group_size = case["group"]
    if case["memory"]:
        adapters.adapt(ours, case["adaptation"] or case["rule"], memory=4)
    found = []
    for layer in rivals:
        x = torch.ones(case["shape"]).cumsum(0).add(torch.rand(case["shape"])).requires_grad_(case["gradient"])
        if case["channels_last"] and x.ndim == 4:
            x = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_(case["gradient"])
        with torch.enable_grad() if case["gradient"] else torch.no_grad():
            found.append(outcome(layer, x))
    return found


if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    answers, sys.stdout = sys.stdout.buffer, sys.stderr
    while True:
        try:
            given = pickle.load(sys.stdin.buffer)
        except EOFError:
            break
        pickle.dump(attempt(given), answers)
        answers.flush()
