"""A process ends well whatever its threads are doing. ``python tests/exits.py 500 --torch`` is the long form."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.core

SCRIPT = Path(__file__).with_name("exits.py")


@pytest.mark.skipif(sys.platform != "linux", reason="forks, and the sounds a process makes when it ends")
@pytest.mark.parametrize("count", [18, pytest.param(150, marks=pytest.mark.long)])
def test_ends_in_every_state(count):
    command = [sys.executable, str(SCRIPT), str(count), "--load", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="forks, and the sounds a process makes when it ends")
def test_ends_in_every_state_of_a_layer():
    pytest.importorskip("torch", reason="needs the extra shrinkstats[torch]")
    command = [sys.executable, str(SCRIPT), "70", "--torch", "--load", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


ENDED = """
import numpy as np
import shrinkstats
from shrinkstats.kernels import threads

threads.WORTHWHILE = 0
threads.set_num_threads(3)
shrinkstats.moments(np.ones((64, 8, 32, 32), "float32"))
helpers = list(threads._running)
assert len(helpers) == 2, helpers
threads._end()
print(sum(helper.is_alive() for helper in helpers))
"""


def test_helpers_end_before_the_interpreter_does():
    done = subprocess.run([sys.executable, "-c", ENDED], capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "0\n"), done


PROGRAM = """
import sys, threading
import numpy as np
import shrinkstats
from shrinkstats.kernels import threads

threads.WORTHWHILE = 0
threads.set_num_threads(3)
begun = threading.Event()

def work():
    while True:
        shrinkstats.moments(np.ones((64, 8, 32, 32), "float32"))
        begun.set()

threading.Thread(target=work, daemon=True).start()
begun.wait()
print(threading.active_count())
"""


def test_a_program_that_ends_in_the_middle_of_a_pass():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done
    assert int(done.stdout) == 4


LATE = """
import sys
import numpy as np
import shrinkstats
from shrinkstats.estimators import BatchStatistics

X, rule = np.ones((4, 3, 5)), BatchStatistics()
calls = {
    "moments": lambda: shrinkstats.moments(X),
    "normalize": lambda: shrinkstats.normalize(X, rule),
    "james_stein": lambda: shrinkstats.james_stein(X[0, :, 0], 0.1),
}
call = calls[sys.argv[1]]
if sys.argv[2] == "used":
    call()

class Late:
    def __init__(self, call):
        self.call, self.cycle = call, self

    def __del__(self):
        self.call()
        sys.stdout.write("computed")

late = Late(call)
"""


@pytest.mark.parametrize("used", ["used", "new"])
@pytest.mark.parametrize("name", ["moments", "normalize", "james_stein"])
def test_what_is_called_when_modules_are_gone(name, used):
    """By the last object to be deleted: Python only prints the error."""
    command = [sys.executable, "-c", LATE, name, used]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done
    clear = "RuntimeError: Python is shutting down" in done.stderr and "atexit.register" in done.stderr
    assert (done.stdout, done.stderr) == ("computed", "") or clear, done


@pytest.mark.parametrize("name", ["moments", "normalize", "james_stein"])
def test_what_is_called_at_exit(name):
    """For the first time, which compiles and imports."""
    program = LATE.replace("late = Late(call)", "import atexit; atexit.register(lambda: print(len(repr(call())) > 9))")
    command = [sys.executable, "-c", program, name, "new"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", ""), done


# --- the first call, disturbed ---------------------------------------------------------------------------------

FIRST = """
import os, signal, sys, threading
import numpy as np
import shrinkstats
from shrinkstats import Statistics

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
x = np.random.default_rng(0).normal(size=(4, 3, 5))
pair = Statistics(np.zeros(3), np.ones(3))

class Before:
    '''Does something when a module is about to be imported.'''
    def __init__(self, name, action):
        self.name, self.action = name, action
        sys.meta_path.insert(0, self)

    def find_spec(self, name, path=None, target=None):
        if name == self.name:
            self.name = None
            self.action()

def right():
    np.testing.assert_allclose(shrinkstats.moments(x).var(), x.var(axis=(0, 2)))
    shrinkstats.wasserstein_bounds(pair, pair, n=4, strength=1.0)

def interrupted(call):
    try:
        call()
    except KeyboardInterrupt:
        return True
    return False
"""


def first(program, *, fine=0, **environment):
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FIRST + program],
        capture_output=True, text=True, timeout=300, check=False, env=os.environ | environment,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (fine, ""), done
    return done.stdout


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("name", ["numba.core.typeconv", "numba.core.types.containers", "scipy.special._orthogonal"])
def test_a_signal_while_a_library_is_imported(name, number):
    """It is answered, once, and the next call works."""
    first(f"""
def raises(number, frame):
    assert frame is None or frame.f_lineno
    raise KeyboardInterrupt
if signal.{number} != signal.SIGINT:
    signal.signal(signal.{number}, raises)
before = signal.getsignal(signal.{number})
Before("{name}", lambda: signal.raise_signal(signal.{number}))
assert interrupted(right)
assert signal.getsignal(signal.{number}) is before
right()
""")


def test_a_signal_that_ends_the_process_while_a_library_is_imported():
    first("""
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
Before("numba.core.types", lambda: (signal.raise_signal(signal.SIGINT), signal.raise_signal(signal.SIGTERM)))
right()
""", fine=7)  # fmt: skip


def test_ctrl_c_while_code_is_compiled(tmp_path):
    """It comes in the middle of LLVM, which would print the exception and go on."""
    out = first("""
from numba.core.codegen import CPUCodeLibrary
hook = CPUCodeLibrary._object_compiled_hook.__func__
pressed = []

@classmethod
def compiled(cls, *call):
    if not pressed:
        pressed.append(1)
        signal.raise_signal(signal.SIGINT)
        pressed.append(2)
    return hook(cls, *call)

CPUCodeLibrary._object_compiled_hook = compiled
from shrinkstats.kernels.vectors import pivot_lines

lines = np.zeros((1, 3))
assert interrupted(lambda: pivot_lines(np.ones(3), lines))
print(pressed)
pivot_lines(np.ones(3), lines)
assert lines.all()
""", NUMBA_CACHE_DIR=str(tmp_path))  # fmt: skip
    assert out == "[1, 2]\n"


FORK = """
working, forking = threading.Event(), threading.Event()

def wait_for_the_fork():
    working.set()
    forking.wait()

thread = threading.Thread(target=lambda: shrinkstats.moments(x.astype(dtype)))

def fork():
    working.wait()
    os.register_at_fork(before=forking.set)  # runs before what was registered before
    child = os.fork()
    if not child:
        signal.alarm(60)  # of a child that waits for ever
        right()
        shrinkstats.moments(x.astype("f"))
        os._exit(0)
    thread.join()
    right()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""

STATES = {
    "imports": 'dtype = float; Before("numba.core.types", wait_for_the_fork)',
    "compiles": """
dtype = "f"
right()
from shrinkstats.kernels import compiled
load = compiled._Cache.load_overload

def slow(self, *call):
    if not forking.is_set():
        wait_for_the_fork()
    return load(self, *call)

compiled._Cache.load_overload = slow
""",
    "compiles for somebody else": """
dtype = float
import numba
from numba.extending import overload
right()

def stop(v):
    return v

@overload(stop)
def typed(v):
    wait_for_the_fork()
    return lambda v: v

@numba.njit
def others(v):
    return stop(v)

thread = threading.Thread(target=lambda: others(1.0))
""",
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no os.fork on this system")
@pytest.mark.parametrize("state", STATES)
def test_a_fork_while_another_thread(state):
    """The child has none of that thread, whose locks it would wait for."""
    first(FORK + STATES[state] + "\nthread.start()\nfork()\n")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no os.fork on this system")
def test_a_fork_in_the_middle_of_an_import_and_of_a_compilation():
    """By the thread that is at it: it does not wait for itself, and both go on."""
    first("""
parent, children = os.getpid(), []

def fork():
    child = os.fork()
    if child:
        children.append(child)
    else:
        signal.alarm(60)

Before("numba.core.types", fork)
right()
from shrinkstats.kernels import compiled
load = compiled._Cache.load_overload

def forks(self, *call):
    compiled._Cache.load_overload = load
    fork()
    return load(self, *call)

compiled._Cache.load_overload = forks
shrinkstats.moments(x.astype("f"))
for child in children:
    if os.getpid() == parent:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
""")
