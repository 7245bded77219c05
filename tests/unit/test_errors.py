import inspect
import re

import pytest

from mlx_patch import errors
from mlx_patch.errors import (
    DegenerateGapWarning,
    OutlierPositionWarning,
    PatchError,
    UncachedWarning,
    UnknownNameError,
    did_you_mean,
    listed,
)

OURS = [value for value in vars(errors).values() if inspect.isclass(value) and value.__module__ == "mlx_patch.errors"]
CLASSES = [value for value in OURS if not issubclass(value, Warning)]
TREE = dict(re.findall(r"^    \* `(\w+)` \(`(\w+)`\)", errors.__doc__ or "", flags=re.MULTILINE))


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_error_has_the_one_base_and_says_what_it_is(cls):
    assert issubclass(cls, PatchError)
    assert cls.__doc__


@pytest.mark.parametrize("cls", [c for c in CLASSES if c is not PatchError], ids=lambda cls: cls.__name__)
def test_the_tree_in_the_docstring_is_the_tree_in_the_code(cls):
    builtin = cls.__mro__[2]
    assert cls.__mro__[1] is PatchError
    assert TREE[cls.__name__] == builtin.__name__


def test_the_tree_lists_nothing_that_is_not_there():
    assert set(TREE) == {cls.__name__ for cls in CLASSES} - {"PatchError"}


def test_warnings_are_named_in_the_docstring_and_are_shown():
    """They are those that Python shows, UserWarnings."""
    warnings = set(OURS) - set(CLASSES)
    assert warnings == {DegenerateGapWarning, OutlierPositionWarning, UncachedWarning}
    assert all(issubclass(cls, UserWarning) and f"`{cls.__name__}`" in (errors.__doc__ or "") for cls in warnings)


def test_a_message_is_printed_as_it_is_even_by_a_key_error():
    assert str(UnknownNameError("`site` must exist.")) == "`site` must exist."


def test_an_error_without_a_message_says_its_name():
    assert str(PatchError()) == "PatchError"


def test_the_nearest_names_are_proposed():
    assert did_you_mean("resid_pots", ["resid_post", "z"]) == "Did you mean resid_post?"


def test_without_a_near_name_all_are_listed():
    assert did_you_mean("xyz", ["resid_post", "z"]) == "Known: resid_post, z."
    assert listed([1, "a"]) == "1, a"
