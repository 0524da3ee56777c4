"""Fixtures of the tests of reports."""

import pytest


@pytest.fixture(autouse=True)
def quiet():
    from tiny_detectors import seeded_on_one_thread

    with seeded_on_one_thread():
        yield


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """The folder of a digits data set with 4 validation images, and its annotation file."""
    from frs_train.data.digits import make_digits

    folder = tmp_path_factory.mktemp("digits")
    return folder, make_digits(folder, train=0, val=4, size=64, seed=0)["val"]
