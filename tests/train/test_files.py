"""Files and folders: atomic writes, the lock of a run folder, names of pictures."""

import os
import signal
import subprocess

import programs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_runs import quiet_fit, run_config

from frs_train.errors import UserError
from frs_train.files import locked, picture_names, write_atomically, written_atomically

NAMES = st.text(st.characters() | st.sampled_from("/.$\\_{}\0\n\ud800aA"), max_size=300)


def test_second_run_is_refused_while_the_first_is_running(digits, tmp_path):
    with locked(tmp_path):
        with pytest.raises(UserError, match="Another run is training into"):
            quiet_fit(run_config(digits, tmp_path))
        assert os.listdir(tmp_path) == [".lock"]
    with locked(tmp_path):
        pass


def test_killed_run_leaves_no_lock_even_if_its_loaders_survive(tmp_path):
    process = subprocess.Popen(
        programs.command("hold_run_folder.py", tmp_path), env=programs.environment(),
        stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="Another run"), locked(tmp_path):
            pass
        process.kill()
        process.wait()
        with locked(tmp_path):
            pass
    finally:
        os.killpg(process.pid, signal.SIGKILL)


def test_path_that_cannot_be_a_folder_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file cannot be used"), locked(tmp_path / "file"):
        pass


def test_killed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def killed(_, __):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"


@given(st.lists(NAMES, max_size=6))
def test_picture_names_are_unique_valid_file_names(files):
    names = picture_names(files)
    assert len({name.casefold() for name in names}) == len(files)
    for name in names:
        assert name.endswith(".png") and len(name.encode()) <= 255 and not set(name) & set("/\0")
        assert name.isprintable()
    assert picture_names(files[:3]) == names[:3]  # for any number of files


def test_content_in_pieces_replaces_the_file_only_when_it_is_complete(tmp_path):
    path = tmp_path / "new" / "file"
    with written_atomically(path) as write:
        write(b"a" * 10**6)
        write(b"b")
        assert not path.exists()
    assert path.read_bytes() == b"a" * 10**6 + b"b"
    with pytest.raises(KeyboardInterrupt), written_atomically(path) as write:
        write(b"c")
        raise KeyboardInterrupt
    assert path.read_bytes().endswith(b"ab") and list(path.parent.iterdir()) == [path]


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="needs a limit for the size of files")
@pytest.mark.parametrize("size", [10, 10**6])  # refused when the buffer is flushed, or when it is full
def test_piece_that_cannot_be_written_is_reported(tmp_path, size):
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5, before[1]))
    try:
        with pytest.raises(UserError, match="file cannot be written: File too large"):
            with written_atomically(tmp_path / "file") as write:
                write(b"x" * size)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []
