"""Files written whole or not at all: from many threads, through links, with the permissions they had."""

import errno
import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import shrinkstats
from shrinkstats import Moments
from shrinkstats._files import whole

pytestmark = pytest.mark.core

unix = pytest.mark.skipif(os.name != "posix", reason="links, modes and pipes are those of POSIX")


def write(path, text="new"):
    with whole(path) as temporary:
        temporary.write_text(text)


def test_many_threads_write_one_file(tmp_path):
    """Each under a name of its own: what is there in the end is what one of them wrote."""
    all_open, path = threading.Barrier(8), tmp_path / "x.txt"

    def work(i):
        with whole(path) as temporary, temporary.open("w") as file:
            file.write(f"{i}" * 1000)
            all_open.wait(60)
            file.write(f"{i}" * 1000)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert path.read_text() in {f"{i}" * 2000 for i in range(8)}
    assert os.listdir(tmp_path) == ["x.txt"]


def test_moments_saved_from_many_threads(tmp_path):
    parts = [shrinkstats.moments(np.full((4, 3), float(i))) for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda m: [m.save(tmp_path / "m.npz") for _ in range(10)], parts))
    assert Moments.load(tmp_path / "m.npz").mean[0] in range(8)
    assert os.listdir(tmp_path) == ["m.npz"]


@pytest.mark.parametrize("error", [ValueError("of the writer"), KeyboardInterrupt(), SystemExit(1)])
def test_what_fails_leaves_the_old_file_and_nothing_else(error, tmp_path):
    (tmp_path / "x.txt").write_text("old")

    def fail():
        with whole(tmp_path / "x.txt") as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert (tmp_path / "x.txt").read_text() == "old"
    assert os.listdir(tmp_path) == ["x.txt"]


def test_all_is_on_disk_before_the_name_is(tmp_path, monkeypatch):
    """First the content, then the name, then the folder that holds the name."""
    steps, fsync, replace = [], os.fsync, os.replace

    def synced(descriptor):
        steps.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else os.fstat(descriptor).st_size)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", lambda *names: steps.append("name") or replace(*names))
    write(tmp_path / "x.txt", "12345")
    assert steps == ([5, "name", "folder"] if os.name == "posix" else [5, "name"])


@unix
@pytest.mark.parametrize("exists", [True, False])
def test_a_link_stays_one(exists, tmp_path):
    (tmp_path / "folder").mkdir()
    target, link, second = tmp_path / "folder" / "target.txt", tmp_path / "link.txt", tmp_path / "second.txt"
    if exists:
        target.write_text("old")
    link.symlink_to("folder/target.txt")
    second.symlink_to(link)
    write(second)
    assert link.is_symlink()
    assert second.is_symlink()
    assert target.read_text() == "new"
    assert os.listdir(tmp_path / "folder") == ["target.txt"]


@unix
def test_permissions_stay_and_new_files_follow_the_umask(tmp_path):
    for mode in (0o600, 0o640, 0o664, 0o444):
        path = tmp_path / f"{mode:o}.txt"
        path.write_text("old")
        path.chmod(mode)
        write(path)
        assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("new", mode)
    before = os.umask(0o022)
    try:
        for mask in (0o022, 0o077, 0o002, 0o377):
            os.umask(mask)
            write(tmp_path / f"umask-{mask:o}.txt")
            assert stat.S_IMODE((tmp_path / f"umask-{mask:o}.txt").stat().st_mode) == 0o666 & ~mask
    finally:
        os.umask(before)


@unix
def test_a_writer_that_makes_a_file_of_its_own(tmp_path):
    """Some libraries replace the file they are told to write, with permissions of their own."""
    path = tmp_path / "x.bin"
    path.touch(0o640)
    path.chmod(0o640)
    with whole(path) as temporary:
        os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_long_names(tmp_path):
    for name in ("x" * 251 + ".txt", "x." + "y" * 250, "é" * 125 + ".npz"):
        write(tmp_path / name)
        assert (tmp_path / name).read_text() == "new"


def test_the_temporary_name_ends_alike(tmp_path):
    """Writers choose a format by it."""
    with whole(tmp_path / "x.tar.svg") as temporary:
        assert temporary.suffix == ".svg"
        assert temporary.parent == tmp_path
        temporary.touch()


@unix
def test_a_pipe_gets_the_bytes_and_stays_a_pipe(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()), daemon=True)
    reader.start()
    shrinkstats.moments(np.ones((4, 3))).save(pipe)
    reader.join(60)
    (tmp_path / "m.npz").write_bytes(got[0])
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert Moments.load(tmp_path / "m.npz").samples == 4
    write(os.devnull)
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


@pytest.mark.parametrize("path", ["missing/x.npz", "file/x.npz", "folder", "x" * 300])
def test_errors_name_the_path_that_was_given(path, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match=r"No such|Not a directory|directory|too long") as caught:
        write(tmp_path / path)
    assert str(caught.value.filename) == str(tmp_path / path)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_a_writer_that_writes_elsewhere_is_an_error(tmp_path):
    (tmp_path / "x").write_text("old")
    with pytest.raises(FileNotFoundError), whole(tmp_path / "x"):
        pass
    assert (tmp_path / "x").read_text() == "old"


@unix
def test_a_folder_that_is_not_to_be_written_to(tmp_path, monkeypatch):
    def refuse(path, *arguments):
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(os, "open", refuse)  # modes do not hold back a superuser
    with pytest.raises(PermissionError) as caught:
        write(tmp_path / "x.txt")
    assert caught.value.filename == str(tmp_path / "x.txt")
