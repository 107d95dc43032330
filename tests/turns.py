"""Several processes that compile the same kernels, and share a cache: one compiles, the others wait and load."""

from contextlib import contextmanager

DEPTH = [0]


def compile_by_turns():
    """From now on this process compiles only while no other process that called this does."""
    try:
        import fcntl

        from numba.core.ccallback import CFunc
        from numba.core.compiler_lock import global_compiler_lock
        from numba.core.dispatcher import Dispatcher
    except ImportError:
        return
    file = open(__file__)  # noqa: SIM115 - held until the process ends, and let go by the system even if it is killed

    @contextmanager
    def turn():
        with global_compiler_lock:
            DEPTH[0] += 1
            if DEPTH[0] == 1:
                fcntl.flock(file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                DEPTH[0] -= 1
                if not DEPTH[0]:
                    fcntl.flock(file, fcntl.LOCK_UN)

    def by_turns(compiled):
        def compile(self, *arguments):
            with turn():  # the first thing it does is to look into the cache
                return compiled(self, *arguments)

        return compile

    for kind in (Dispatcher, CFunc):
        kind.compile = by_turns(kind.compile)
