"""Temporary files and folders that a process claims while it uses them, so that another sees which ones nobody does.

A claim is a lock that the system takes back when the process ends, however it ends.
"""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex


@contextmanager
def claimed_file(folder: Path, prefix: str, suffix: str = "") -> Iterator[tuple[Path, int]]:
    """A new empty file with a name of its own and its descriptor, removed in the end if it is still there.

    Args:
        folder: Where it is.
        prefix: How its name begins, for `remove_unclaimed`.
        suffix: How it ends.
    Raises:
        OSError: It cannot be made.
    """

    def make(path: Path) -> int:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)  # less what the umask takes

    path, descriptor = _claim(folder, prefix, suffix, make)
    try:
        yield path, descriptor
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


@contextmanager
def scratch_folder(folder: Path, prefix: str) -> Iterator[Path]:
    """A new empty folder with a name of its own, removed in the end. Those of killed processes are removed first.

    Args:
        folder: Where it is.
        prefix: How its name begins: of nothing else in `folder`.
    Raises:
        OSError: It cannot be made.
    """

    def make(path: Path) -> int:
        path.mkdir(mode=0o700)
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    remove_unclaimed(folder, prefix)
    path, descriptor = _claim(folder, prefix, "", make)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(descriptor)


def remove_unclaimed(folder: Path, prefix: str) -> None:
    """Remove files and folders of these names that no process claims; what may not be removed stays.

    Args:
        folder: Where they are.
        prefix: How their names begin.
    """
    with suppress(OSError):
        for path in folder.iterdir():
            if path.name.startswith(prefix):
                with suppress(OSError):
                    _remove_if_unclaimed(path)


def _claim(folder: Path, prefix: str, suffix: str, make: Callable[[Path], int]) -> tuple[Path, int]:
    """A new path and its descriptor, which is locked."""
    while True:
        path = folder / f"{prefix}{token_hex(4)}{suffix}"
        try:
            descriptor = make(path)
        except FileExistsError:
            continue
        with suppress(OSError):  # some network disks have no locks; what is left behind there stays
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if _is_at(path, descriptor):  # else another process saw it before it was locked, and took it for a leftover
            return path, descriptor
        os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _remove_if_unclaimed(path: Path) -> None:
    """Remove a file or a folder, unless a process has locked it.

    Raises:
        OSError: One has, or it cannot be opened or removed.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    finally:
        os.close(descriptor)
