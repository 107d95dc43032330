"""Processes that end in every state that threads can be in: ``python tests/exits.py 500`` ends 500.

Each is a fork of this one, which has only imported, so it costs milliseconds; it runs to its end as any program does.
One that is ended by a signal (an abort, or an alarm after a minute) or says anything on stderr is a failure.
"""

from __future__ import annotations

import argparse
import gc
import os
import signal
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

import numpy as np

import shrinkstats
from shrinkstats.kernels import threads

torch = None  # unless asked for: a process that has loaded it takes ten times as long to end
X = np.random.default_rng(0).normal(size=(64, 8, 32, 32)).astype("float32")


def work() -> None:
    shrinkstats.moments(X)


def load_torch() -> None:
    global torch, ShrinkBatchNorm2d, openmp
    import torch

    from shrinkstats.adapters.torch import ShrinkBatchNorm2d, openmp


def step() -> None:
    layer = ShrinkBatchNorm2d(8)
    layer(torch.from_numpy(X)).sum().backward()


def for_ever(begun) -> None:
    while True:
        work()
        begun.set()


def idle() -> None:
    work()


def busy(count=2) -> None:
    """Daemon threads that are in the middle of a pass whenever the process ends."""
    begun = [threading.Event() for _ in range(count)]
    for event in begun:
        threading.Thread(target=for_ever, args=(event,), daemon=True).start()
    for event in begun:
        event.wait()


def executor(call=work) -> None:
    pool = ThreadPoolExecutor(3)
    for _ in range(6):
        pool.submit(call)


def not_daemon(call=work) -> None:
    threading.Thread(target=lambda: [call() for _ in range(5)]).start()


def failing() -> None:
    busy()
    raise KeyboardInterrupt


def exiting() -> None:
    busy()
    sys.exit(0)


def at_once() -> None:
    busy()
    os._exit(0)


def forked() -> None:
    busy()
    child = os.fork()
    work()
    if child:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def at_exit() -> None:
    """Functions that run at the end use passes, and wait for a thread that does."""
    import atexit

    stop = threading.Event()
    thread = threading.Thread(target=lambda: [work() for _ in iter(stop.is_set, True)], daemon=True)
    atexit.unregister(threads._end)
    atexit.register(lambda: (stop.set(), thread.join(), work()))
    atexit.register(threads._end)
    thread.start()


def layer_idle() -> None:
    step()


# Daemon threads in PyTorch's own operations abort a process that ends ("terminate called without an active
# exception"): those of nn.BatchNorm2d too, in a forward pass without gradients. They are no state of ours.
def layer_not_daemon() -> None:
    not_daemon(step)


def layer_own_threads() -> None:
    openmp._parallel = None
    not_daemon(step)


def layer_executor() -> None:
    executor(step)


def layer_beside_arrays() -> None:
    """Daemon threads in passes over NumPy's memory, which a layer's threads came before."""
    step()
    busy()


STATES = [idle, busy, executor, not_daemon, failing, exiting, at_once, forked, at_exit]
LAYERS = [layer_idle, layer_not_daemon, layer_own_threads, layer_executor, layer_beside_arrays]


def end_one(state) -> str:
    """How a process ended that was in this state; empty if well."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(read)
        os.dup2(write, 2)
        signal.alarm(120)
        threads.WORTHWHILE = 0
        threads.set_num_threads(3)
        if torch is not None:
            openmp.WORTHWHILE = 0
            torch.set_num_threads(2)
        sys.excepthook = lambda kind, *_: None if kind is KeyboardInterrupt else traceback.print_exc()
        state()
        return "child"
    os.close(write)
    with open(read, errors="replace") as said:
        complaint = said.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    expected = (0, 1, -signal.SIGINT, 130) if state is failing else (0,)
    return "" if status in expected and not complaint else f"{state.__name__}: status {status}, {complaint[-500:]}"


def compile_all() -> None:
    """Before the forks, and in one thread: they would not survive."""
    threads.set_num_threads(1)
    work()
    if torch is not None:
        torch.set_num_threads(1)
        step()
    gc.freeze()  # the end of a process is then a tenth of the work


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int)
    parser.add_argument("--load", type=int, default=2, help="processes that keep the machine busy meanwhile")
    parser.add_argument("--torch", action="store_true", help="layers, too")
    arguments = parser.parse_args()
    states = STATES
    if arguments.torch:
        load_torch()
        states = LAYERS + STATES
    compile_all()
    for _ in range(arguments.load):
        if not os.fork():
            parent = os.getppid()
            while os.getppid() == parent:
                sum(range(10000))
            os._exit(0)
    bad, begun = [], time.monotonic()
    for i in range(arguments.count):
        found = end_one(states[i % len(states)])
        if found == "child":
            return 0
        if found:
            bad.append(found)
    print(f"{arguments.count} ends in {time.monotonic() - begun:.0f} s, {len(bad)} of them bad", *bad[:20], sep="\n")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
