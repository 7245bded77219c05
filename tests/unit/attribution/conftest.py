"""The model and the source that tests of several methods share."""

import pytest
from two_rows import OTHER


@pytest.fixture(scope="module")
def model(tiny):
    return tiny("llama")


@pytest.fixture(scope="module")
def source(model):
    return model.run_with_cache(OTHER, sites=model.sites)[1]
