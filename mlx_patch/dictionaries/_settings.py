"""`Settings`: a dictionary's configuration, read key by key. Keys that were not read are refused."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mlx_patch.errors import FileError, brief, listed
from mlx_patch.files import Malformed, clause_of, open_checked, read_bounded, strict_json

_LARGEST = 2**20
_LARGEST_YAML = 2**16
_DEEPEST_YAML = 20
_LISTED = 12
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
                raise FileError(f"{self.path} must say {key!r}. It has: {_names(self.values)}. Fetch it again.")
            return default
        value = self.values[key]
        kinds = kind
        if not isinstance(kinds, tuple):
            kinds = (kinds,)
        is_of_kind = isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))
        if not is_of_kind:
            names = " or ".join(member.__name__ for member in kinds)
            raise FileError(f"{self.path} must have {names} for {key!r}. Got {brief(value)}. Fetch it again.")
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
                f"{self.path} must have one of {listed(map(repr, choices))} for {key!r}. Got {brief(value)}, which "
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
                f"{_names(unknown)}. If they change nothing, remove them from a copy of the folder."
            )


def _names(keys: Iterable[str]) -> str:
    """The first keys, for a message."""
    return listed(map(brief, list(keys)[:_LISTED]))


def read_json(path: Path) -> Settings:
    """The settings of a JSON file.

    Raises:
        FileError: It is no mapping in JSON, or cannot be read.
    """
    try:
        values = strict_json(_text(path))
    except Malformed as error:
        raise FileError(f"`folder` must hold a {path.name} in JSON. Got {path}, which {clause_of(error)}.") from error
    return Settings(path, _checked_mapping(path, values))


def read_yaml(path: Path) -> Settings:
    """The settings of a YAML file: plain values only, no tags and no aliases.

    Raises:
        FileError: It is no mapping in YAML, or cannot be read.
    """
    import yaml  # comes with mlx_lm

    text = _text(path, _LARGEST_YAML)
    try:
        _check_tokens(text)
        values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise FileError(
            f"`folder` must hold a {path.name} in YAML. Got {path}, which is none: {clause_of(error)}."
        ) from error
    return Settings(path, _checked_mapping(path, values))


def _check_tokens(text: bytes) -> None:
    """Refuse nesting, of which a configuration has little, names for parts of a document, and kinds of values.

    A short text of names that stand for each other is more than memory holds; nested brackets take quadratic time.
    What a tag makes of a text may be any object.

    Raises:
        Malformed: There is one.
    """
    import yaml

    starts = (yaml.FlowSequenceStartToken, yaml.FlowMappingStartToken)
    starts += (yaml.BlockSequenceStartToken, yaml.BlockMappingStartToken)
    ends = (yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken, yaml.BlockEndToken)
    depth = 0
    for token in yaml.scan(text):
        depth += isinstance(token, starts) - isinstance(token, ends)
        if isinstance(token, yaml.AliasToken | yaml.TagToken):
            raise Malformed("it has aliases or tags")
        if depth > _DEEPEST_YAML:
            raise Malformed(f"its values are nested more than {_DEEPEST_YAML} deep")


def _text(path: Path, largest: int = _LARGEST) -> bytes:
    try:
        with open_checked(path) as file:
            return read_bounded(file, largest)
    except Malformed as error:
        raise FileError(f"`folder` must hold {path.name}. Got {path}, which {error}.") from error
    except OSError as error:
        raise FileError(f"`folder` must hold {path.name}. Got {path}: {error.strerror}.") from error


def _checked_mapping(path: Path, values: object) -> dict[str, Any]:
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise FileError(f"`folder` must hold a {path.name} that maps keys to values. Got {path}.")
    return values
