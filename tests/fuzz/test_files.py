"""Damaged files of every kind that the library reads: a FileError that names the file, or what was written.

`FILE_SEED=7 FILE_CASES=2000 python -m pytest -n 2 tests/fuzz/test_files.py` runs so many a kind, from another seed.
`EVERY_BIT=1` flips every single bit of each kind's example.
"""

import functools
import importlib
import importlib.metadata
import inspect
import os
import pkgutil
import re
import signal
from argparse import ArgumentParser
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from zlib import crc32

import numpy as np
import pytest
from file_damage import DAMAGES, bombs, flipped, forged, members_of
from file_kinds import KINDS, tiny_instruct

import mlx_patch as mp
from mlx_patch import cli
from mlx_patch.errors import FileError

SEED = int(os.environ.get("FILE_SEED", "0"))
CASES = int(os.environ.get("FILE_CASES", "10"))
FORGED, NOT_FILES, BOMBS = CASES, 10, 6
"""The least number of cases of each kind that are forged, that are no files, and that hold a gigabyte."""

EVERY_BIT = os.environ.get("EVERY_BIT") == "1"
MEGABYTES = 150
"""By which the memory of the process may grow while a small file is read."""

SECONDS = 20
"""After which a case has hung."""


class Hung(BaseException):
    """A case that does not end; no `OSError`, which is caught."""


@pytest.fixture(autouse=True)
def _quick_command(monkeypatch):
    """The command reads its model, and the list of installed packages, once for all cases."""
    monkeypatch.setattr("mlx_patch.metrics._plugins.entry_points", functools.cache(importlib.metadata.entry_points))
    instruct = tiny_instruct()
    monkeypatch.setattr(mp.HookedModel, "load", lambda *_, **__: instruct)


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


@pytest.fixture
def path(kind, tmp_path):
    """The example of a kind, in a folder of its own."""
    (tmp_path / "home").mkdir()
    return kind.write(tmp_path / "home")


@pytest.fixture
def draw(kind):
    return np.random.default_rng([SEED, crc32(kind.name.encode())])


def peak_memory():
    """The most memory that the process had since `reset_peak`, in megabytes; 0 where that is not told."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
    return 0


def reset_peak():
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


@contextmanager
def deadline():
    def stop(*_):
        raise Hung(f"after {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def contents_of(folder):
    """Every file below a folder, by its path."""
    return {file: file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


class Case:
    """Reads one kind again and again, and notes what is not as it must be.

    Args:
        kind: The kind.
        path: Its example.
    """

    def __init__(self, kind, path):
        self.kind, self.path, self.home = kind, path, path.parents[path.parts[::-1].index("home") - 1]
        self.original = path.read_bytes()
        self.contents = kind.read(path)
        self.witness = self.home / "witness"
        self.refused = self.accepted = 0
        self.leaks = []

    @property
    def count(self):
        return self.refused + self.accepted

    def altered(self, label, content, *, forged=False):
        """Read altered bytes, and put the right ones back."""
        self.path.write_bytes(content)
        before = contents_of(self.home)
        was_read = self.read(label, same=self.kind.sealed and not forged)
        if contents_of(self.home) != before and not (was_read and self.kind.resumes):
            self.leaks.append(f"{label}: a file was altered")
        self.path.write_bytes(self.original)

    def read(self, label, same=True):
        """Read what is there: whether it is accepted. Refusals name the file."""
        reset_peak()
        before = peak_memory()
        was_read = False
        try:
            with deadline():
                contents = self.kind.read(self.path)
        except FileError as error:
            self.refused += 1
            self._check_message(label, str(error))
        except (Exception, Hung) as error:
            self.refused += 1
            self.leaks.append(f"{label}: {type(error).__name__} {str(error)[:200]}")
        else:
            self.accepted += 1
            was_read = True
            if same and contents != self.contents:
                self.leaks.append(f"{label}: read as something else")
        if peak_memory() - before > MEGABYTES:
            self.leaks.append(f"{label}: {peak_memory() - before:.0f} MB more")
        if self.witness.exists():
            self.leaks.append(f"{label}: code was run")
            self.witness.unlink()
        return was_read

    def _check_message(self, label, text):
        if f"{self.home}/" not in text:
            self.leaks.append(f"{label}: the file is not named in {text[:200]}")
        if len(text) > 1500:
            self.leaks.append(f"{label}: {len(text)} characters, {text[:200]}")


def test_damaged_bytes_are_refused_or_read_as_they_were(kind, path, draw):
    case = Case(kind, path)
    for number in range(CASES):
        damage = DAMAGES[number % len(DAMAGES)]
        case.altered(f"{damage.__name__} {number}", damage(case.original, draw))
    n_bits = 8 * len(case.original)
    bits = range(n_bits)
    if not EVERY_BIT:  # one of each stretch, so that every part of the file is hit
        bits = ((np.arange(CASES) + draw.random(CASES)) * n_bits / CASES).astype(int).tolist()
    for bit in bits:
        case.altered(f"bit {bit}", flipped(case.original, bit))
    assert case.leaks == []
    assert case.count == CASES + len(bits)
    assert case.refused > 0.2 * CASES or kind.form == "text"


def test_forged_files_are_refused_or_read(kind, path, draw):
    """By who knows the format, and puts right sums into them."""
    case = Case(kind, path)
    for label, content in forged(kind.form, case.original, draw, case.witness, CASES):
        case.altered(label, content, forged=True)
        if kind.seal is not None:
            with suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError, IndexError):
                case.altered(f"{label}, with right sums", kind.seal(content), forged=True)
    assert case.leaks == []
    assert case.count >= min(FORGED, 40) or kind.form == "text"
    assert case.refused > 0


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.form == "zip"])
def test_a_bomb_is_not_unpacked(name, tmp_path):
    (tmp_path / "home").mkdir()
    case = Case(KINDS[name], KINDS[name].write(tmp_path / "home"))
    for label, content in bombs(members_of(case.original)):
        case.altered(label, content, forged=True)
    assert case.leaks == []
    assert case.refused >= BOMBS
    assert case.accepted == 0


def not_files(path, kind):
    """Puts other things in place of a file, one after the other, and says which."""
    content, link = path.read_bytes(), path.parent / "elsewhere"
    yield "the file itself"
    path.write_bytes(b"")
    yield "nothing in it"
    os.truncate(path, 2**40)
    yield "a terabyte of nothing"
    path.write_bytes(content)
    os.truncate(path, 2**40)
    yield "a terabyte of nothing behind it"
    path.write_bytes(content)
    path.chmod(0)
    yield "an unreadable file"
    path.unlink()
    path.mkdir()
    yield "a folder"
    path.rmdir()
    if not kind.streams:
        os.mkfifo(path)
        yield "a pipe"
        path.unlink()
    targets = ["/dev/zero", path.parent]
    if not kind.resumes:  # what goes on with its file begins where there is none
        targets += [path.parent / "absent", path]
    for target in targets:
        path.symlink_to(target)
        yield f"a link to {target}"
        path.unlink()
    link.write_bytes(content)
    path.symlink_to(link)
    yield "a link to the file"
    path.unlink()
    link.unlink()


def test_what_is_no_file_is_refused(kind, path):
    case = Case(kind, path)
    n_open = len(os.listdir("/dev/fd"))
    for label in not_files(path, kind):
        before = os.lstat(path)
        case.read(label)
        after = os.lstat(path)
        assert (after.st_ino, after.st_mtime_ns, after.st_mode) == (before.st_ino, before.st_mtime_ns, before.st_mode)
    assert len(os.listdir("/dev/fd")) == n_open
    assert case.leaks == []
    assert case.count >= NOT_FILES
    assert case.refused >= 6


def test_another_kind_of_file_under_the_name_is_refused(kind, path, draw):
    """Unless it is one that this reader reads too."""
    case = Case(kind, path)
    others = [name for name, content in examples().items() if content != case.original]
    for name in draw.permutation(others)[:CASES].tolist():
        case.altered(name, examples()[name], forged=True)
    assert case.leaks == []
    assert case.count == min(CASES, len(others))


@functools.cache
def examples():
    """The bytes of every kind's example."""
    contents = {}
    for name, kind in KINDS.items():
        with TemporaryDirectory() as folder:
            contents[name] = kind.write(Path(folder)).read_bytes()
    return contents


def test_there_are_two_thousand_cases():
    """In CI, at the least: each test counts its own. With what else is forged there are 3,000."""
    a_kind = CASES + CASES + FORGED + NOT_FILES + CASES
    n_zips = sum(kind.form == "zip" for kind in KINDS.values())
    assert a_kind * (len(KINDS) - 1) + n_zips * BOMBS > 2000  # a prompt is a text, which is hard to forge


# Every reader has a kind

INTERNAL = ("mlx_patch.files", "mlx_patch.execution", "mlx_patch.architectures", "mlx_patch.dictionaries.dialects")
"""What reads for the functions that have kinds."""

WRITERS = re.compile(r"\.(save|to_json|to_html|pattern_page|written_whole|write_cache)\(path=\)$")
OTHERS = {
    "mlx_patch.HookedModel.load(path_or_hub_id=)": "mlx_lm reads models",
    "mlx_patch.HookedModel.with_adapter(adapter_path=)": "mlx_lm reads adapters",
    "mlx_patch.cache.read_cache(path=)": "`ActivationCache.load` is this",
    "mlx_patch.cross.capture(path=)": "it writes",
    "mlx_patch.cross_patch(donor=)": "`ActivationCache.load` reads it",
    "mlx_patch.cross_patch(file=)": "it writes the file, and reads it with `ActivationCache.load`",
    "mlx_patch.results.CellResult.load(path=)": "of no kind of its own",
    "mlx_patch.dictionaries.Dictionary(folder=)": "for its repr; `load` reads",
    "mlx_patch.testing.smollm2_folder(cache_dir=)": "its wheel has a SHA-256",
}
FILE_OPTIONS = re.compile("FILE|PATH|FOLDER")
OPTIONS_THAT_WRITE = re.compile("--(json|save|plot|html)$")


def modules():
    yield mp
    for info in pkgutil.walk_packages(mp.__path__, "mlx_patch."):
        if "._" not in info.name and "__main__" not in info.name:
            yield importlib.import_module(info.name)


def public_functions():
    """Every function and method that a public module has, by each of its names, with its class."""
    for module in modules():
        for name, value in vars(module).items():
            if name.startswith("_") or not str(getattr(value, "__module__", "")).startswith("mlx_patch"):
                continue
            if inspect.isclass(value):
                for member in dir(value):
                    if member == "__init__" or not member.startswith("_"):
                        yield (
                            f"{module.__name__}.{name}.{member}".removesuffix(".__init__"),
                            value,
                            getattr(value, member),
                        )
            else:
                yield f"{module.__name__}.{name}", None, value


def path_parameters():
    """The shortest name of every public parameter that is a path."""
    names = {}
    for name, cls, value in public_functions():
        function = getattr(value, "__func__", value)
        if not inspect.isfunction(function) or name.startswith(INTERNAL):
            continue
        for parameter in inspect.signature(function).parameters.values():
            if re.search(r"PathLike|pathlib", annotation_of(function, parameter)):
                key, full = (cls, function, parameter.name), f"{name}({parameter.name}=)"
                names[key] = min(full, names.get(key, full), key=len)
    return set(names.values())


def annotation_of(function, parameter):
    """What a parameter is annotated with, in full, also where a module leaves annotations as text."""
    if not isinstance(parameter.annotation, str):
        return str(parameter.annotation)
    try:
        return str(eval(parameter.annotation, function.__globals__))
    except NameError:  # of an import for type checkers alone
        return parameter.annotation


def command_arguments():
    """Every argument of the command that names a file."""
    for verb in cli.VERBS:
        parser = ArgumentParser()
        verb.add_arguments(parser)
        for action in parser._actions:
            name = (action.option_strings or [action.dest])[-1]
            is_file = name == "file" or (action.metavar and FILE_OPTIONS.search(str(action.metavar)))
            if is_file and not OPTIONS_THAT_WRITE.match(name) and name != "--adapter-path":
                yield f"mlx_patch {verb.name} {name}"


def test_every_reader_has_a_kind(monkeypatch):
    monkeypatch.undo()
    readers = {name for name in path_parameters() if not WRITERS.search(name)} - OTHERS.keys()
    readers |= set(command_arguments())
    assert OTHERS.keys() <= path_parameters()
    assert readers == {name for kind in KINDS.values() for name in kind.readers}


def test_nothing_reads_pickles_or_evaluates_text():
    """In the package: mlx's and mlx_lm's own loaders read models."""
    forbidden = re.compile(
        r"\b(pickle|marshal|shelve|dill|joblib)\.|allow_pickle=True|literal_eval|np\.load\(|(?<![\w.])(eval|exec|compile)\("
        r"|yaml\.(load|unsafe_load|full_load)\("
    )
    package = Path(mp.__file__).parent
    lines = {file: file.read_text(encoding="utf-8").splitlines() for file in package.rglob("*.py")}
    assert [(file.name, line) for file, each in lines.items() for line in each if forbidden.search(line)] == []
