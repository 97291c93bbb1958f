"""Files that are written completely or not at all."""

import contextlib
import os

import pytest
from unstuck_support import diagnoses

from unstuck.cli import main
from unstuck.files import write_file
from unstuck.language.errors import InputError, check_file


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "a.json"
    for data in (b"old", b"new"):
        assert write_file(path, data) == path
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    path = write_file(tmp_path / "a.json", b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space .*a\.json"):
        write_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_page_that_does_not_fit_on_the_disk_is_named_in_a_line(tmp_path, monkeypatch, refused):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    diagnoses.broken(3).to_json(tmp_path / "a.json")
    monkeypatch.setattr(os, "fsync", full)
    with contextlib.redirect_stdout(None):
        said = refused(main, ["report", str(tmp_path / "a.json"), "--html", str(tmp_path / "page.html")])
    assert "page.html: No space left on device" in said


def test_two_processes_do_not_share_a_part(tmp_path, monkeypatch):
    parts = []
    monkeypatch.setattr(os, "fsync", lambda _: parts.extend(p.name for p in tmp_path.glob("*.part")))
    for process in (1, 2):
        monkeypatch.setattr(os, "getpid", lambda process=process: process)
        write_file(tmp_path / "a", b"")
    assert parts == ["a.1.part", "a.2.part"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_or_a_device_is_not_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="pipe is a device or a pipe, not a file: give another name"):
        write_file(tmp_path / "pipe", b"new")
    assert not (tmp_path / "pipe").is_file()
    with pytest.raises(InputError, match="pipe is a device or a pipe, not a file: give another name"):
        check_file(tmp_path / "pipe")
