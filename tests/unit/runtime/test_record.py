"""Files and folders that are whole or not there, and what a killed process leaves."""

import os
import shutil

import pytest

from medtune.runtime.record import remove_leftovers, replace_folder, write_text


def make(folder, name, text="x"):
    (folder / name).mkdir(parents=True)
    (folder / name / "file").write_text(text)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_was_left_aside_goes_and_the_rest_stays(tmp_path):
    for name in ("step-2", ".step-4.partial", ".model.123.tmp", ".model.123.old", "model", ".hidden"):
        make(tmp_path, name)
    (tmp_path / ".config.yaml.77.tmp").write_text("half")
    remove_leftovers(tmp_path)
    assert names(tmp_path) == [".hidden", "model", "step-2"]
    remove_leftovers(tmp_path / "absent")


def test_a_folder_that_was_being_replaced_goes_back(tmp_path):
    """Killed between the two renames, the place is empty and the former one lies aside."""
    make(tmp_path, ".model.123.old", "former")
    make(tmp_path, ".model.123.tmp", "new")
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["model"]
    assert (tmp_path / "model/file").read_text() == "former"


def test_a_folder_and_the_names_around_it_are_on_the_disk_before_the_old_one_goes(tmp_path, monkeypatch):
    """A file that is synced can still lose its name: the folders must be synced too, before the removal."""
    make(tmp_path, "model", "former")
    make(tmp_path, "new/inner", "new")
    done, fsync, rmtree = [], os.fsync, shutil.rmtree

    def note_fsync(handle):
        done.append(os.path.relpath(os.readlink(f"/proc/self/fd/{handle}"), tmp_path))
        fsync(handle)

    def note_removal(path, **how):
        done.append("removed")
        rmtree(path, **how)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(shutil, "rmtree", note_removal)
    replace_folder(tmp_path / "new", tmp_path / "model")
    assert (tmp_path / "model/inner/file").read_text() == "new"
    assert done == ["new/inner", "new/inner/file", "new", ".", "removed"]
    assert names(tmp_path) == ["model"]


def test_a_file_and_its_name_are_on_the_disk(tmp_path, monkeypatch):
    done, fsync = [], os.fsync

    def note(handle):
        done.append(os.path.basename(os.readlink(f"/proc/self/fd/{handle}")).split(".")[-1])
        fsync(handle)

    monkeypatch.setattr(os, "fsync", note)
    write_text(tmp_path / "a.json", "{}")
    assert done == ["tmp", tmp_path.name]


@pytest.mark.parametrize("name", ["step-2", "model", ".gitignore", ".partial", "notes.tmp"])
def test_only_our_own_names_are_left_overs(tmp_path, name):
    make(tmp_path, name)
    remove_leftovers(tmp_path)
    assert names(tmp_path) == [name]
