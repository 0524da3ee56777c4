"""Both packages without what Windows and macOS lack: simulated, not tested on the real systems."""

import programs


def test_imports_trains_and_installs_without_what_only_linux_has(tmp_path):
    out = programs.output("elsewhere.py", tmp_path)
    assert "it is not built" in out and "eager            runs" in out
    assert "trained 2 memory None" in out and out.rstrip().endswith("built")
