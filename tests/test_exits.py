"""A process ends well whatever its threads are doing. ``python tests/exits.py 500 --torch`` is the long form."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.core

SCRIPT = Path(__file__).with_name("exits.py")


@pytest.mark.skipif(sys.platform != "linux", reason="forks, and the sounds a process makes when it ends")
@pytest.mark.parametrize("count", [18, pytest.param(500, marks=pytest.mark.long)])
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
