"""`Settings`: a dictionary's configuration, read key by key. Keys that were not read are refused."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mlx_patch.errors import FileError, listed, shown
from mlx_patch.files import Malformed, open_checked, strict_json

_LARGEST = 2**20
_REQUIRED: Any = object()


class Settings:
    """The keys and values of a configuration.

    A key that nothing reads may say how the numbers are meant, so `refuse_rest` refuses it.

    Args:
        path: The file, for messages.
        values: What it says.
    """

    def __init__(self, path: Path, values: Mapping[str, Any]) -> None:
        self.path = path
        self.values = dict(values)
        self._read: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def take(self, key: str, kind: type | tuple[type, ...], default: Any = _REQUIRED) -> Any:
        """The value of a key.

        Raises:
            FileError: It is missing and has no default, or is of another kind.
        """
        self._read.add(key)
        if key not in self.values:
            if default is _REQUIRED:
                raise FileError(f"{self.path} must say {key!r}. It has: {listed(self.values)}. Fetch it again.")
            return default
        value = self.values[key]
        kinds = kind
        if not isinstance(kinds, tuple):
            kinds = (kinds,)
        is_of_kind = isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))
        if not is_of_kind:
            names = " or ".join(member.__name__ for member in kinds)
            raise FileError(f"{self.path} must have {names} for {key!r}. Got {shown(value)}. Fetch it again.")
        return value

    def choose(self, key: str, choices: Iterable[Any], default: Any = _REQUIRED) -> Any:
        """The value of a key, which is one of a few.

        Raises:
            FileError: It is missing, or something else, whose meaning is not known.
        """
        choices = tuple(choices)
        value = self.take(key, (str, bool, type(None)), default)
        if value not in choices:
            raise FileError(
                f"{self.path} must have one of {listed(map(repr, choices))} for {key!r}. Got {shown(value)}, which "
                "mlx_patch does not know how to compute."
            )
        return value

    def ignore(self, keys: Iterable[str]) -> None:
        """Mark keys as read that say nothing of how the numbers are used."""
        self._read.update(keys)

    def refuse_rest(self) -> None:
        """Refuse a configuration with keys that nothing has read.

        Raises:
            FileError: There are such.
        """
        unknown = [key for key in self.values if key not in self._read]
        if unknown:
            raise FileError(
                f"{self.path} must have known keys only: one of the others may change what the features are. Got "
                f"{listed(map(repr, unknown))}. If they change nothing, remove them from a copy of the folder."
            )


def read_json(path: Path) -> Settings:
    """The settings of a JSON file.

    Raises:
        FileError: It is no mapping in JSON, or cannot be read.
    """
    try:
        values = strict_json(_text(path))
    except Malformed as error:
        raise FileError(f"`folder` must hold a {path.name} in JSON. Got {path}, which {error}.") from error
    return Settings(path, _checked_mapping(path, values))


def read_yaml(path: Path) -> Settings:
    """The settings of a YAML file: plain values only, no Python objects.

    Raises:
        FileError: It is no mapping in YAML, or cannot be read.
    """
    import yaml  # comes with mlx_lm

    try:
        values = yaml.safe_load(_text(path))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise FileError(f"`folder` must hold a {path.name} in YAML. Got {path}, which is none: {error}.") from error
    return Settings(path, _checked_mapping(path, values))


def _text(path: Path) -> bytes:
    try:
        with open_checked(path) as file:
            content = file.read(_LARGEST + 1)
    except Malformed as error:
        raise FileError(f"`folder` must hold {path.name}. Got {path}, which {error}.") from error
    except OSError as error:
        raise FileError(f"`folder` must hold {path.name}. Got {path}: {error.strerror}.") from error
    if len(content) > _LARGEST:
        raise FileError(f"`folder` must hold a {path.name} of at most {_LARGEST} bytes. Got {path}, which is larger.")
    return content


def _checked_mapping(path: Path, values: object) -> dict[str, Any]:
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise FileError(f"`folder` must hold a {path.name} that maps keys to values. Got {path}.")
    return values
