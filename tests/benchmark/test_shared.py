"""Folders that all nodes must share: the token in each, and the fault if a folder is a different one elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark.config import ConfigError
from benchmark.shared import make_folder, tokens, unseen


def test_a_token_is_gone_when_everybody_has_looked(tmp_path: Path) -> None:
    """Each folder is made and gets one token; afterwards only the folders are left."""
    folders = {"LOGDIR": tmp_path / "logs", "SAVE_CHECKPOINT": tmp_path / "a" / "saved"}
    with tokens(folders) as made:
        assert {variable: token.parent for variable, token in made.items()} == folders
        assert list(unseen(made)) == []
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_token_is_gone_when_a_job_is_refused(tmp_path: Path) -> None:
    """Its writer removes it even if the block fails."""
    with pytest.raises(SystemExit), tokens({"LOGDIR": tmp_path}):
        raise SystemExit(2)
    assert list(tmp_path.iterdir()) == []


def test_another_folder_under_the_same_path_is_named(tmp_path: Path) -> None:
    """The fault names the variable too, since a path alone does not say which folder it is."""
    assert list(unseen({"SAVE_CHECKPOINT": tmp_path / "token"})) == [
        f"SAVE_CHECKPOINT={tmp_path} is not the folder of the first node: all nodes must share it"
    ]


@pytest.mark.parametrize("below", ["", "tiny"])
def test_a_link_that_leads_nowhere_is_said(below: str, tmp_path: Path) -> None:
    """The error has the link and its target, whether the link is the folder itself or above it."""
    link = tmp_path / "logs"
    link.symlink_to("/scratch/gone")
    with pytest.raises(ConfigError) as refusal:
        make_folder("LOGDIR", link / below)
    assert str(refusal.value) == f"LOGDIR={link / below}: {link} is a link to /scratch/gone, which is not there"


def test_a_folder_that_cannot_be_made_or_written_is_one_clear_error(tmp_path: Path) -> None:
    """One error covers a file in its place, or a file system without room for a new name."""
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    with pytest.raises(ConfigError, match=r"LOGDIR=.*: .*/link cannot be made: File exists"):
        make_folder("LOGDIR", tmp_path / "link")
    with pytest.raises(ConfigError, match=r"LOGDIR=.*: .*/file cannot be made: File exists"):
        make_folder("LOGDIR", tmp_path / "file")
    read_only = {"LOGDIR": Path("/proc/self")}
    with pytest.raises(ConfigError, match=r"LOGDIR=/proc/self cannot be written: "), tokens(read_only):
        pass
