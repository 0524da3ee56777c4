"""A pytest plugin: tests marked gpu "pass" without being run; the test of the suite can kill it midway."""

import os
import time
from pathlib import Path

import pytest

FOLDER = Path(os.environ["DRY"])


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    if (FOLDER / "few").exists():
        del items[1:]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item):
    """Holds after the first test whose results are written, if the command line is the one to be killed."""
    done = yield
    wanted = FOLDER / "hold"
    words = "after " + " ".join(item.config.invocation_params.args)
    if wanted.exists() and wanted.read_text() and wanted.read_text() in words:
        (FOLDER / "held").touch()
        time.sleep(300)
    return done


class Passing:
    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item):
        if "benchmark" in item.fixturenames:
            return None
        hook = item.ihook
        hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for when in ("setup", "call", "teardown"):
            report = pytest.TestReport(item.nodeid, item.location, {}, "passed", None, when)
            hook.pytest_runtest_logreport(report=report)
        hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True


def pytest_configure(config):
    config.pluginmanager.register(Passing())
