"""Time and memory of means and variances against size, from 1e5 elements to 1e9 in a file.

    python -m benchmarks.scale [--largest 1e8] [--folder FOLDER]

`shrinkstats.moments` (of an array, and of a Dask array) against NumPy's and Dask's own mean and var and scikit-learn's
StandardScaler, float32, 100 channels. Sizes above --in-memory are read from a file in --folder, as numpy.memmap. It was
just written, so nobody waits for the disk. A rival whose memory would not fit is not run, and the table says so. Memory
is what arrays allocate beside the data.

Every cell is written to --cells as soon as it is known; started again, the benchmark goes on where it was.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path

import dask
import dask.array as da
import numpy as np
from sklearn.preprocessing import StandardScaler

import shrinkstats
from benchmarks.lab.cells import Cells, Row
from benchmarks.lab.command import options
from benchmarks.lab.record import machine, save
from shrinkstats.kernels.threads import get_num_threads

CHANNELS = 100
SIZES = [10**5, 10**6, 10**7, 10**8, 10**9]
CHUNK = 10**7  # elements of a chunk of Dask's
SECONDS, REPEATS = 3.0, 31  # a cell takes so many repeats, or so long, whichever comes first; three at least


def lazily(x: np.ndarray) -> da.Array:
    """x for Dask, in chunks of whole rows; without a name, for which Dask would read all of the data."""
    return da.from_array(x, chunks=(max(1, CHUNK // CHANNELS), CHANNELS), name=False)


RIVALS: dict[str, Callable[[np.ndarray, da.Array], object]] = {  # of an array, and of the same as Dask's
    "moments": lambda x, _: shrinkstats.moments(x),
    "moments of Dask": lambda _, lazy: dask.compute(shrinkstats.moments(lazy)),
    "NumPy": lambda x, _: (x.mean(axis=0), x.var(axis=0)),
    "Dask": lambda _, lazy: dask.compute(lazy.mean(axis=0), lazy.var(axis=0)),
    "StandardScaler": lambda x, _: StandardScaler().fit(x),
}


def seconds(call: Callable[[], object]) -> float:
    """Median time of a call, after one that is not counted."""
    call()
    times: list[float] = []
    while len(times) < 3 or (len(times) < REPEATS and sum(times) < SECONDS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def memory(call: Callable[[], object]) -> int:
    """Most bytes that a call holds at a time."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def copy_bandwidth(size: int) -> float:
    """Bytes read and written in a second by a copy of float32 numbers, on as many threads as `moments` uses."""
    source, target = np.ones(size, np.float32), np.ones(size, np.float32)
    threads = get_num_threads()
    parts = list(zip(np.array_split(target, threads), np.array_split(source, threads), strict=True))
    with ThreadPoolExecutor(threads) as pool:
        return 2 * source.nbytes / seconds(lambda: list(pool.map(lambda part: np.copyto(*part), parts)))


@contextmanager
def data(size: int, in_memory: int, folder: Path) -> Iterator[np.ndarray]:
    """Random numbers of one size, in memory or in a file that is removed at the end."""
    rows = size // CHANNELS
    block = np.random.default_rng(0).normal(1.0, 2.0, size=(min(rows, 10**5), CHANNELS)).astype(np.float32)
    if size <= in_memory:
        yield np.resize(block, (rows, CHANNELS))
        return
    with tempfile.NamedTemporaryFile(dir=folder, suffix=".float32") as file:
        for start in range(0, rows, len(block)):
            file.write(block[: rows - start].tobytes())
        file.flush()
        yield np.memmap(file.name, np.float32, "r", shape=(rows, CHANNELS))


def fits(rival: str, size: int, rows: list[Row]) -> bool:
    """Whether what the rival holds beside the data, as far as smaller sizes tell, takes less than half the memory."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    smaller = [r for r in rows if r.get("rival") == rival and r["memory"] is not None and r["size"] < size]
    if not smaller:
        return True
    last = max(smaller, key=lambda r: r["size"])
    grows = last["memory"] > last["size"]  # more than a byte an element: in proportion to the data
    return not grows or last["memory"] * size / last["size"] < total / 2


def report(rows: list[Row], bandwidth: float) -> None:
    """The table."""
    print(f"a copy reads and writes {bandwidth / 1e9:.1f} GB/s")
    print(f"{'elements':>10} {'where':>8} {'rival':>16} {'time':>12} {'GB/s':>7} {'of copy':>8} {'memory':>12}")
    for r in sorted(rows, key=lambda r: (r["size"], list(RIVALS).index(r["rival"]))):
        start = f"{r['size']:10.0e} {r['where']:>8} {r['rival']:>16}"
        if r["seconds"] is None:
            print(f"{start}  its memory would not fit")
            continue
        speed = 4 * r["size"] / r["seconds"]
        times = f"{1e3 * r['seconds']:9.2f} ms {speed / 1e9:7.2f} {100 * speed / bandwidth:7.0f}%"
        print(f"{start} {times} {r['memory'] / 1e6:9.2f} MB")


def main() -> None:
    """Measure what is not known, print, record."""
    parser = options(__doc__)
    parser.add_argument("--largest", type=float, default=SIZES[-1], help="elements of the largest array")
    parser.add_argument("--in-memory", type=float, default=10**8, help="elements above which the data lie in a file")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where the file is kept")
    parser.add_argument("--cells", type=Path, default=Path("scale.jsonl"), help="where measured cells are kept")
    parser.add_argument("--no-record", action="store_true", help="print only")
    arguments = parser.parse_args()
    settings = {
        "machine": machine(),
        "versions": {name: version(name) for name in ("dask", "scikit-learn")},
        "threads": get_num_threads(),
        "channels": CHANNELS,
        "dtype": "float32",
        "in_memory": int(arguments.in_memory),
    }
    cells = Cells(arguments.cells, settings)
    copied = int(min(arguments.largest, arguments.in_memory))
    if not any(r.get("copied") == copied for r in cells.rows):
        cells.add({"copied": copied, "bandwidth": copy_bandwidth(copied)})
    for size in SIZES:
        missing = [
            name for name in RIVALS if not any((r.get("size"), r.get("rival")) == (size, name) for r in cells.rows)
        ]
        if size > arguments.largest or not missing:
            continue
        with data(size, arguments.in_memory, arguments.folder) as x:
            lazy = lazily(x)
            where = "file" if isinstance(x, np.memmap) else "memory"
            for name in missing:
                print(f"{size:.0e} {name}", flush=True)
                row: Row = {"size": size, "where": where, "rival": name, "seconds": None, "memory": None}
                if fits(name, size, cells.rows):
                    call = partial(RIVALS[name], x, lazy)
                    row |= {"seconds": seconds(call), "memory": memory(call)}
                cells.add(row)
    bandwidth = next(r["bandwidth"] for r in cells.rows if r.get("copied") == copied)
    rows = [r for r in cells.rows if "rival" in r and r["size"] <= arguments.largest]
    report(rows, bandwidth)
    if not arguments.no_record:
        content = {k: v for k, v in settings.items() if k != "machine"}
        content |= {"copied": copied, "copy_bandwidth": bandwidth, "rows": rows}
        print(f"recorded in {save('scale', content)}")


if __name__ == "__main__":
    main()
