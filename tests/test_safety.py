"""Threads, forks, copies, and where compiled kernels are kept. In processes of their own: an abort or a hang fails."""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from patience import PATIENCE

pytest.importorskip("torch", reason="needs the extra shrinkstats[torch]")

ROOT = Path(__file__).parents[1]

COMMON = """
    import copy, io, pickle, sys, warnings
    from concurrent.futures import ThreadPoolExecutor
    import numpy as np
    import torch
    from torch import nn
    from shrinkstats.adapters.torch import ShrinkBatchNorm2d, adapt, calibrate, convert, openmp
    from shrinkstats.estimators import BatchStatistics, RobustNorm, Stein, SteinBlend
    from shrinkstats.kernels import threads

    warnings.simplefilter("error")

    def random(*shape, seed=0):
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed))

    def network(estimator=Stein(), seed=0):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8))
        net(random(8, 3, 12, 12))
        return convert(net, estimator)
"""


def run(program, *, environment=None):
    """Output of a program in a process of its own, which must end well and in time, and complain of nothing."""
    code = textwrap.dedent(COMMON) + textwrap.dedent(program)
    variables = os.environ | {"OMP_NUM_THREADS": "1"} | (environment or {})
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, timeout=PATIENCE, env=variables, cwd=ROOT / "tests",
    )  # fmt: skip
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize("adapted", [pytest.param(False, marks=pytest.mark.long), True])
def test_eight_threads_share_a_network_in_evaluation(adapted):
    run(f"""
        threads.WORTHWHILE = openmp.WORTHWHILE = 0
        threads.set_num_threads(2)
        net = network().eval()
        if {adapted}:
            adapt(calibrate(net, [random(16, 3, 12, 12)]))
        before = copy.deepcopy(net.state_dict())
        batches = [random(2 + i % 5, 3, 12, 12, seed=i) for i in range(64)]
        torch.set_num_threads(2)
        with torch.no_grad():
            expected = [net(x) for x in batches]

        def work(x):
            with torch.no_grad():
                return net(x)

        with ThreadPoolExecutor(8) as pool:
            for found, y in zip(pool.map(work, batches), expected, strict=True):
                assert torch.equal(found, y)
        for name, value in before.items():
            assert torch.equal(net.state_dict()[name], value)
    """)


@pytest.mark.long
def test_eight_threads_train_their_own_networks():
    run("""
        threads.WORTHWHILE = openmp.WORTHWHILE = 0
        threads.set_num_threads(2)
        torch.set_num_threads(2)
        rules = [Stein(), SteinBlend(), RobustNorm(), BatchStatistics()]

        def train(i):
            net = network(rules[i % 4], seed=i)
            optimizer = torch.optim.SGD(net.parameters(), 0.01)
            for step in range(10):
                optimizer.zero_grad()
                net(random(4, 3, 12, 12, seed=100 * i + step)).pow(3).mean().backward()
                optimizer.step()
            return net.state_dict()

        nets = [network(rules[i % 4], seed=i) for i in range(8)]  # the global generator is not for threads
        network = lambda rule, seed: copy.deepcopy(nets[seed])
        alone = [train(i) for i in range(8)]
        # A convolution of PyTorch's may differ in the last bit in threads that have not been told.
        with ThreadPoolExecutor(8, initializer=torch.set_num_threads, initargs=(2,)) as pool:
            for found, expected in zip(pool.map(train, range(8)), alone, strict=True):
                for name, value in expected.items():
                    assert torch.equal(found[name], value), name
    """)


@pytest.mark.long
def test_the_first_call_may_come_from_eight_threads_at_once(tmp_path):
    """All of them find nothing compiled."""
    run(
        """
        layers = [ShrinkBatchNorm2d(3) for _ in range(8)]
        with ThreadPoolExecutor(8) as pool:
            outputs = list(pool.map(lambda layer: layer(random(4, 3, 5, 5)), layers))
        for y in outputs:
            assert torch.equal(y, outputs[0])
        """,
        environment={"NUMBA_CACHE_DIR": str(tmp_path)},
    )


WORKERS = """
import sys
import torch
from torch.utils.data import DataLoader, Dataset
from shrinkstats.adapters.torch import ShrinkBatchNorm2d, openmp
from shrinkstats.kernels import threads


class Normalized(Dataset):
    def __init__(self, layer):
        self.layer = layer

    def __len__(self):
        return 8

    def __getitem__(self, i):
        threads.WORTHWHILE = openmp.WORTHWHILE = 0
        x = torch.full((2, 3, 4, 4), float(i)) + torch.arange(96.0).reshape(2, 3, 4, 4)
        x.requires_grad_()
        y = self.layer(x)
        y.pow(2).sum().backward()
        return y.detach(), x.grad


if __name__ == "__main__":
    threads.WORTHWHILE = openmp.WORTHWHILE = 0
    threads.set_num_threads(2)
    torch.set_num_threads(2)
    data = Normalized(ShrinkBatchNorm2d(3))
    alone = [data[i] for i in range(8)]
    loader = DataLoader(data, batch_size=None, num_workers=2, multiprocessing_context=sys.argv[1])
    for _ in range(2):
        for (y, g), (expected, gradient) in zip(loader, alone, strict=True):
            assert torch.equal(y, expected)
            assert torch.equal(g, gradient)
    assert torch.equal(data[0][0], alone[0][0])
"""


@pytest.mark.parametrize(
    "start",
    [
        pytest.param("fork", marks=pytest.mark.skipif(not hasattr(os, "fork"), reason="no os.fork on this system")),
        pytest.param("spawn", marks=pytest.mark.long),
    ],
)
def test_workers_of_a_data_loader(start, tmp_path):
    """They use the layer, forward and backward, after the parent has, with its pool of threads."""
    script = tmp_path / "workers.py"
    script.write_text(WORKERS)
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", str(script), start],
        capture_output=True, text=True, timeout=PATIENCE, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no os.fork on this system")
def test_a_forked_child_has_threads_of_its_own():
    """PyTorch's team does not survive a fork: a child that waited for it would wait for ever."""
    run("""
        import os
        threads.WORTHWHILE = openmp.WORTHWHILE = 0
        torch.set_num_threads(2)
        threads.set_num_threads(2)
        layer = ShrinkBatchNorm2d(3)

        def step():
            x = random(8, 3, 6, 6).requires_grad_()
            layer(x).pow(2).sum().backward()
            return x.grad

        expected = step()
        warnings.simplefilter("ignore", DeprecationWarning)  # Python's own, of forking with threads
        child = os.fork()
        if child == 0:
            fine = torch.equal(step(), expected) and threads._helpers > 0 and openmp._parallel is None
            os._exit(0 if fine else 3)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert torch.equal(step(), expected)
    """)


TEAMS = {"PyTorch's": "", "our own": "openmp._parallel = None", "found nowhere": "openmp._parallel = openmp._find([])"}


@pytest.mark.parametrize("team", [t if t == "PyTorch's" else pytest.param(t, marks=pytest.mark.long) for t in TEAMS])
def test_no_more_threads_than_pytorch_may_use(team):
    """Whoever lowers one of the two limits means it; NumPy arrays know only ours. The bits are the same."""
    run(f"""
        import shrinkstats
        threads.WORTHWHILE = openmp.WORTHWHILE = 0
        {TEAMS[team]}
        layer, x = ShrinkBatchNorm2d(3), random(64, 3, 8, 8).requires_grad_()
        seen, results = [], set()
        parallel, start = openmp._parallel, threads._start_helpers
        if parallel is not None:
            openmp._parallel = lambda *call: seen.append(call[2]) or parallel(*call)
        threads._start_helpers = lambda count: seen.append(1 + count) or start(count)

        def workers(ours, theirs, work):
            threads.set_num_threads(ours)
            torch.set_num_threads(theirs)
            seen.clear()
            work()
            return max(seen, default=1)

        def step():
            x.grad = None
            layer(x).pow(2).sum().backward()
            results.add(x.grad.numpy().tobytes())

        moments = lambda: shrinkstats.moments(x.detach().numpy())
        assert workers(4, 1, step) == 1
        assert workers(1, 4, step) == 1
        assert workers(2, 2, step) == 2
        assert len(seen) == 4  # every pass of both directions
        assert workers(4, 2, step) == 2
        assert workers(2, 4, step) == 2
        assert workers(3, 3, step) == 3
        assert len(results) == 1
        assert workers(2, 1, moments) == 2
        try:
            workers(2, 1, lambda: layer(torch.ones(2, 4, 3, 3)))  # an error leaves no limit behind
        except (RuntimeError, ValueError):
            pass
        assert workers(2, 1, moments) == 2
    """)


def test_copies_pickles_and_files():
    run("""
        net = adapt(calibrate(network().eval(), [random(16, 3, 12, 12)]))
        x = random(4, 3, 12, 12)
        expected = net(x)
        assert torch.equal(copy.deepcopy(net)(x), expected)
        assert torch.equal(pickle.loads(pickle.dumps(net))(x), expected)
        y = net.train()(x.requires_grad_())  # with a graph behind it
        assert torch.equal(pickle.loads(pickle.dumps(net.eval()))(x), copy.deepcopy(net)(x))
        y.sum().backward()
        file = io.BytesIO()
        torch.save(net.state_dict(), file)
        file.seek(0)
        other = network(BatchStatistics(), seed=1).eval()
        other.load_state_dict(torch.load(file, weights_only=True))
        assert torch.equal(adapt(other)(x), net(x))
    """)


def test_no_threading_layer_of_numba_is_ever_started():
    (modules,) = run("""
        threads.WORTHWHILE = openmp.WORTHWHILE = 0
        threads.set_num_threads(4)
        torch.set_num_threads(4)
        for estimator in (Stein(), RobustNorm()):
            for format in (torch.contiguous_format, torch.channels_last):
                x = random(8, 3, 6, 6).contiguous(memory_format=format).requires_grad_()
                ShrinkBatchNorm2d(3, estimator)(x).pow(2).sum().backward()
        import numba
        from numba.core.dispatcher import Dispatcher
        from shrinkstats.kernels import backward, cpu, sums
        kernels = {v for module in (backward, cpu, sums) for v in vars(module).values() if isinstance(v, Dispatcher)}
        assert len(kernels) > 10
        assert not any(kernel.targetoptions.get("parallel") for kernel in kernels)
        try:
            numba.threading_layer()
        except ValueError as error:
            assert "not initialized" in str(error)
            print("none")
    """)
    assert modules == "none"


# --- compiled kernels ------------------------------------------------------------------------------------------

FIRST_CALL = """
    import time
    for format in (torch.contiguous_format, torch.channels_last):
        x = random(8, 3, 6, 6).contiguous(memory_format=format).requires_grad_()
        ShrinkBatchNorm2d(3)(x).pow(2).sum().backward()
    from numba.core.dispatcher import Dispatcher
    from shrinkstats.kernels import backward, cpu, sums, team, vectors
    modules = (backward, cpu, sums, team, vectors)
    kernels = {v for module in modules for v in vars(module).values() if isinstance(v, Dispatcher)}
    used = [kernel for kernel in kernels if kernel.signatures]
    bodies = [team._body(name, order, np.float32) for name in team._BODIES for order in (False, True)]
    print(cpu.__file__, len(used), sum(sum(k.stats.cache_misses.values()) for k in used),
          sum(sum(k.stats.cache_hits.values()) for k in used) + sum(body.cache_hits for body in bodies))
"""


@pytest.mark.long
def test_kernels_are_compiled_once(tmp_path):
    """The first process compiles and says nothing; the second compiles nothing."""
    _, used, misses, hits = run(FIRST_CALL, environment={"NUMBA_CACHE_DIR": str(tmp_path)})
    assert (int(used) > 5, int(misses) > 5, int(hits)) == (True, True, 0)
    _, again, misses, hits = run(FIRST_CALL, environment={"NUMBA_CACHE_DIR": str(tmp_path)})
    assert (int(misses), int(hits) > 5) == (0, True)
    assert int(again) <= int(used)


@pytest.mark.long
def test_an_installation_without_a_place_to_write_to(tmp_path):
    """Neither beside the modules, nor in the user's cache, nor where the environment says: for the superuser too."""
    package = tmp_path / "site" / "shrinkstats"
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "shrinkstats", package, ignore=skip)
    shutil.copytree(ROOT / "adapters", package / "adapters", ignore=skip)
    for folder in [package, *(p for p in package.rglob("*") if p.is_dir())]:
        (folder / "__pycache__").touch()  # a file where a folder would be made
        folder.chmod(0o555)
    nowhere = str(tmp_path / "file" / "cache")
    (tmp_path / "file").touch()
    environment = {"PYTHONPATH": str(package.parent), "HOME": nowhere, "XDG_CACHE_HOME": nowhere}
    for directory in ({}, {"NUMBA_CACHE_DIR": nowhere}):
        file, used, _, hits = run(FIRST_CALL, environment=environment | directory)
        assert file.startswith(str(package))
        assert int(used) > 5
        assert int(hits) == 0
    for folder in [package, *(p for p in package.rglob("*") if p.is_dir())]:
        folder.chmod(0o755)
