import multiprocessing
import os
import random
import signal
import stat
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest

from kitlib.base import files
from kitlib.base.settings import Epsilon, KitError, Settings, choose, format_epsilon, parse_epsilon


class Example(Settings):
    eps: Epsilon = 0.0
    count: int = 1


@pytest.mark.parametrize("text, value", [("8/255", 8 / 255), ("127.5/255", 0.5), ("0.03", 0.03), (0, 0.0), ("0", 0.0),
                                         (" 8 / 255 ", 8 / 255), (1, 1.0)])
def test_epsilon_is_read(text, value):
    assert parse_epsilon(text) == pytest.approx(value)


@pytest.mark.parametrize("bad", ["8/0", "eight", "", "-1/255", -0.1, float("nan"), "inf", True, None, [8], "1/2/3"])
def test_bad_epsilon_is_refused(bad):
    with pytest.raises(KitError, match="'eps'.*epsilon must be"):
        Example.read({"eps": bad}, "here")


@pytest.mark.parametrize("eps, text", [(8 / 255, "8/255"), (0.5, "127.5/255"), (0, "0/255"), (0.5 / 255, "0.5/255")])
def test_epsilon_is_written_in_255ths(eps, text):
    assert format_epsilon(eps) == text


def test_unknown_key_names_the_nearest():
    with pytest.raises(KitError, match="file.yaml: unknown key 'cuont'; did you mean 'count'"):
        Example.read({"cuont": 3}, "file.yaml")


def test_every_problem_is_told_at_once():
    with pytest.raises(KitError, match="'count'.*unknown key 'x'"):
        Example.read({"count": "many", "x": 1}, "here")


class Mixed(Settings):
    count: int = 1
    eps: Epsilon | None = None
    share: float | None = None
    options: dict[str, int | bool] = {}
    on: bool = False
    either: int | bool = 1


@pytest.mark.parametrize("name", ["count", "eps", "share"])
def test_yes_and_no_are_no_numbers(name):
    with pytest.raises(KitError, match=f"mine: '{name}': .*number.*got True"):
        Mixed.read({name: True}, "mine")
    assert Mixed.read({"on": True, "either": True, "options": {"a": True}}, "mine").on


def test_choose_lists_what_there_is():
    assert choose("a", {"a": 1}, "letter") == 1
    with pytest.raises(KitError, match="there is no letter 'zz'; known: a"):
        choose("zz", {"a": 1}, "letter")


def test_a_failing_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "record.json"
    files.write_json(path, {"old": 1})
    with pytest.raises(RuntimeError), files.atomic_file(path) as aside:
        aside.write_text("half")
        raise RuntimeError("killed")
    assert files.read_json(path) == {"old": 1}
    assert os.listdir(tmp_path) == ["record.json"]


def test_what_is_there_and_no_file_stays_as_it_is(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name, says in (("pipe", "device or pipe: choose a file"), ("folder", "folder: choose a file")):
        with pytest.raises(KitError, match=f"{name} is a {says}"):
            files.write_text(tmp_path / name, "new")
    assert (tmp_path / "pipe").is_fifo() and sorted(os.listdir(tmp_path)) == ["folder", "pipe"]


def test_written_files_can_be_read_by_others(tmp_path):
    files.write_text(tmp_path / "a.txt", "x")
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) & 0o044


def test_arrays_come_back(tmp_path):
    files.write_arrays(tmp_path / "a.npz", numbers=np.arange(5), text=np.array("word"))
    back = files.read_arrays(tmp_path / "a.npz")
    assert back["numbers"].tolist() == [0, 1, 2, 3, 4] and back["text"].item() == "word"


def test_pickled_and_missing_arrays_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, bad=np.array([{"code": 1}], dtype=object))
    with pytest.raises(KitError, match="no .npz of plain arrays"):
        files.read_arrays(path)
    with pytest.raises(KitError, match="does not exist"):
        files.read_arrays(tmp_path / "missing.npz")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_flipped_byte_is_refused_or_without_effect(save, tmp_path):
    """Anywhere in the file: in the numbers, in numpy's heads, in the archive's tables."""
    content = {"images": np.random.default_rng(0).integers(0, 255, (6, 4, 4)), "x": np.linspace(0, 1, 35),
               "text": np.array("some words")}
    save(tmp_path / "a.npz", **content)
    whole, dice, refused = (tmp_path / "a.npz").read_bytes(), random.Random(0), 0
    tables = range(whole.index(b"PK\x01\x02"), len(whole))
    for place in (*tables, *(dice.randrange(len(whole)) for _ in range(300))):
        flipped = bytes([whole[place] ^ dice.randrange(1, 256)])
        (tmp_path / "a.npz").write_bytes(whole[:place] + flipped + whole[place + 1:])
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")     # numpy's, of odd heads
                back = files.read_arrays(tmp_path / "a.npz")
        except KitError as error:
            refused += "a.npz is damaged" in str(error)
            continue
        assert back.keys() == content.keys()
        for name, array in content.items():
            np.testing.assert_array_equal(back[name], array, strict=True)
    assert refused > 300


def write_and_be_killed(path):
    """kill -9 when the old folder is set aside and the new one is not in its place yet."""
    rename = Path.rename
    Path.rename = lambda each, to: os.kill(os.getpid(), signal.SIGKILL) if each.name == "new" else rename(each, to)
    with files.atomic_folder(path) as folder:
        (folder / "new.txt").touch()


def test_a_folder_comes_back_after_a_kill_between_the_two_renames(tmp_path):
    (tmp_path / "it").mkdir()
    (tmp_path / "it/old.txt").touch()
    (tmp_path / ".it-or-not-12345678/old").mkdir(parents=True)      # of another folder
    victim = multiprocessing.get_context("fork").Process(target=write_and_be_killed, args=(tmp_path / "it",))
    victim.start()
    victim.join()
    assert victim.exitcode == -signal.SIGKILL
    assert not (tmp_path / "it").exists()
    with pytest.raises(RuntimeError), files.atomic_folder(tmp_path / "it") as folder:
        assert os.listdir(tmp_path / "it") == ["old.txt"] and os.listdir(folder) == []
        raise RuntimeError("and the next one fails, too")
    assert os.listdir(tmp_path / "it") == ["old.txt"]
    assert sorted(os.listdir(tmp_path)) == [".it-or-not-12345678", "it"]


def test_two_writers_of_one_folder_lose_neither_result_nor_each_other(tmp_path, monkeypatch):
    def write(name):
        with files.atomic_folder(tmp_path / "it") as folder:
            (folder / name).touch()

    def rename(path, target):
        result = plain(path, target)
        if path.name == "it" and not others:    # the first has set the old one aside, and nothing is in its place
            others.append(threading.Thread(target=write, args=("second",)))
            others[0].start()
            others[0].join(0.2)
        return result

    write("old")
    plain, others = Path.rename, []
    monkeypatch.setattr(Path, "rename", rename)
    write("first")
    assert os.listdir(tmp_path / "it") in (["first"], ["second"])
    others[0].join()
    assert os.listdir(tmp_path) == ["it"] and os.listdir(tmp_path / "it") == ["second"]


def test_a_link_to_a_folder_stays_one(tmp_path):
    (tmp_path / "big disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "big disk")
    files.check_folder(tmp_path / "out", may_hold=set())
    with files.atomic_folder(tmp_path / "out") as folder:
        (folder / "new.txt").touch()
    assert (tmp_path / "out").is_symlink() and os.listdir(tmp_path / "big disk") == ["new.txt"]


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(files.fcntl, "flock", flock)
    with pytest.raises(KitError, match="cannot be locked .Function not implemented.: .*KITLIB_RUNS"):
        files.locked(tmp_path, "batch").__enter__()


@pytest.mark.parametrize("text", ["!!bool maybe", "!!timestamp abc", '!!int ""', "a: 1\na: 2"])
def test_yaml_of_no_meaning_is_a_clear_error(text):
    with pytest.raises(KitError, match="mine.yaml is no valid YAML"):
        files.parse_yaml(text, "mine.yaml")


@pytest.mark.parametrize("content", ["", "{", "\x00\xff", '{"a": 1', 100_000 * "["])
def test_damaged_json_is_a_clear_error(tmp_path, content):
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(KitError, match="r.json is damaged"):
        files.read_json(tmp_path / "r.json")


def test_a_folder_that_could_not_be_put_in_place_is_refused_beforehand(tmp_path, monkeypatch):
    (tmp_path / "it").mkdir()
    (tmp_path / "it/.DS_Store").touch()         # macOS leaves it where a folder is looked at
    files.check_folder(tmp_path / "it", may_hold=set())
    monkeypatch.setattr(Path, "is_mount", lambda path: path.name == "it")
    with pytest.raises(KitError, match="it is a mount point"):
        files.check_folder(tmp_path / "it", may_hold=set())
