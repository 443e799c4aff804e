"""kitlib.data.download against a server on this machine: whole, cut, resumed, changed, hostile, offline."""
import dataclasses
import hashlib
import http.server
import io
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
import types

import pytest
from PIL import Image

from kitlib.base import files
from kitlib.base.settings import KitError
from kitlib.data import download, sources

INNER = {"toy-bin/train.bin": os.urandom(300_000), "toy-bin/test.bin": os.urandom(40_000)}


def archive_of(members, **kinds):
    stored = io.BytesIO()
    with tarfile.open(fileobj=stored, mode="w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for name, target in kinds.get("links", {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
    return stored.getvalue()


class Server(http.server.ThreadingHTTPServer):
    """Serves `content`; cuts the next connections after `cuts` bytes each, or sends a byte at a time (`slow`)."""

    def __init__(self, content):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.cuts, self.asked, self.ranges, self.slow, self.status = content, [], [], True, False, None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/toy.tar.gz"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server, content = self.server, self.server.content
        asked = self.headers.get("Range")
        server.asked.append(asked)
        first = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and server.ranges else 0
        if server.status or first >= len(content):
            return self.send_error(server.status or 416)
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        last = first + server.cuts.pop(0) if server.cuts else len(content)
        step = 4096 if server.slow else len(content)
        for start in range(first, min(last, len(content)), step):
            self.wfile.write(content[start:min(start + step, last)])
            time.sleep(0.02 if server.slow else 0)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    with Server(archive_of(INNER | {"toy-bin/readme.html": b"not needed"})) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        offer(monkeypatch, running)
        yield running
        running.shutdown()


def offer(monkeypatch, server, **changes):
    """Let "cifar10" be the server's archive."""
    known = download.Archive("Toy data", "public domain", server.url, len(server.content),
                             hashlib.sha256(server.content).hexdigest(), "toy-bin",
                             {name: len(content) for name, content in INNER.items()})
    monkeypatch.setitem(download.SOURCES, "cifar10", dataclasses.replace(known, **changes))


def assert_whole(folder):
    for name, content in INNER.items():
        assert (folder / name).read_bytes() == content
    assert sorted(path.name for path in (folder / "toy-bin").iterdir()) == ["test.bin", "train.bin"]
    assert [path.name for path in folder.iterdir() if path.name not in (".cache", "toy-bin")] == []
    assert list((folder / ".cache").glob("*.part")) == []


def assert_nothing(folder):
    assert [path for path in folder.rglob("*") if path.name not in (".cache", ".download.lock")] == []


def test_it_says_first_where_from_how_large_and_under_which_licence(server, tmp_path):
    said = []

    def say(line):
        said.append(line)
        if len(said) == 1:
            assert server.asked == [] and not tmp_path.joinpath("toy-bin").exists()

    assert download.fetch("cifar10", tmp_path, say=say) == tmp_path / "toy-bin"
    assert_whole(tmp_path)
    for part in ("Toy data", server.url, "bytes to download", "unpacked", "licence: public domain", str(tmp_path)):
        assert part in said[0]
    assert said[-1] == f"cifar10 is in {tmp_path / 'toy-bin'}"


def test_what_is_there_is_not_downloaded_again(server, tmp_path, capsys):
    download.fetch("cifar10", tmp_path)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "toy-bin").iterdir()}
    capsys.readouterr()
    download.fetch("cifar10", tmp_path)
    assert len(server.asked) == 1 and capsys.readouterr().out == f"cifar10 is in {tmp_path / 'toy-bin'}\n"
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "toy-bin").iterdir()}


def test_a_file_cut_short_is_mended_and_other_things_are_left_alone(server, tmp_path):
    download.fetch("cifar10", tmp_path)
    (tmp_path / "toy-bin/test.bin").write_bytes(b"short")
    (tmp_path / "toy-bin/mine.txt").write_text("my notes")
    with pytest.raises(KitError, match="holds other things already .*mine.txt"):
        download.fetch("cifar10", tmp_path)
    (tmp_path / "toy-bin/mine.txt").unlink()
    download.fetch("cifar10", tmp_path)
    assert_whole(tmp_path)


def test_a_cut_connection_is_taken_up_where_it_ended(server, tmp_path):
    server.cuts = [100_000, 50_000]
    download.fetch("cifar10", tmp_path)
    assert server.asked == [None, "bytes=100000-", "bytes=150000-"]
    assert_whole(tmp_path)


def test_after_too_many_cuts_the_next_call_goes_on(server, tmp_path):
    server.cuts = [100_000, 1, 1]
    with pytest.raises(KitError, match="was cut after 100,002 bytes of .* goes on from there.*By hand"):
        download.fetch("cifar10", tmp_path)
    assert not (tmp_path / "toy-bin").exists()
    download.fetch("cifar10", tmp_path)
    assert server.asked[-1] == "bytes=100002-"
    assert_whole(tmp_path)


def test_a_server_that_knows_no_ranges_sends_all_of_it_again(server, tmp_path):
    server.cuts, server.ranges = [100_000], False
    download.fetch("cifar10", tmp_path)
    assert_whole(tmp_path)


@pytest.mark.parametrize("left", [b"x" * 1000, b"x" * 10**6], ids=["another file's beginning", "more than all"])
def test_a_part_that_is_no_part_is_downloaded_anew(server, tmp_path, left):
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache/toy.tar.gz.part").write_bytes(left)
    download.fetch("cifar10", tmp_path)
    assert_whole(tmp_path)


def test_a_whole_part_needs_no_connection(server, tmp_path):
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache/toy.tar.gz.part").write_bytes(server.content)
    download.fetch("cifar10", tmp_path)
    assert server.asked == []
    assert_whole(tmp_path)


def test_a_changed_file_is_refused_by_its_hash_and_not_kept(server, tmp_path):
    server.content = server.content[:-1] + bytes([server.content[-1] ^ 1])
    for _ in range(2):
        with pytest.raises(KitError, match="its sha256 differs.*nothing was kept. By hand: get http://"):
            download.fetch("cifar10", tmp_path)
    assert_nothing(tmp_path)


def test_a_page_in_place_of_the_file_is_refused_before_it_is_downloaded(server, tmp_path):
    server.content = b"<html>please log in</html>"
    with pytest.raises(KitError, match="has 26 bytes instead of .*By hand"):
        download.fetch("cifar10", tmp_path)
    assert_nothing(tmp_path)


@pytest.mark.parametrize("hostile", [
    archive_of({"../climbed.bin": b"out", **INNER}),
    archive_of({"/tmp/kitlib-climbed.bin": b"out", **INNER}),
    archive_of(INNER, links={"toy-bin/readme": "/etc/passwd", "toy-bin/up": "../.."}),
], ids=["up", "absolute", "links"])
def test_paths_and_links_that_lead_out_of_the_folder_are_not_unpacked(server, tmp_path, monkeypatch, hostile):
    server.content = hostile
    offer(monkeypatch, server)
    download.fetch("cifar10", tmp_path / "data")
    assert_whole(tmp_path / "data")
    assert [path.name for path in tmp_path.iterdir()] == ["data"] and not os.path.exists("/tmp/kitlib-climbed.bin")


@pytest.mark.parametrize("hostile", [
    archive_of({"toy-bin/train.bin": INNER["toy-bin/train.bin"]}, links={"toy-bin/test.bin": "/etc/passwd"}),
    archive_of({"toy-bin/train.bin": INNER["toy-bin/train.bin"]}),
    archive_of(INNER | {"toy-bin/test.bin": b"another length"}),
], ids=["a link in place of a file", "a file missing", "a file of another length"])
def test_an_archive_without_the_files_leaves_nothing(server, tmp_path, monkeypatch, hostile):
    server.content = hostile
    offer(monkeypatch, server)
    with pytest.raises(KitError, match="does not hold the files of toy-bin.*nothing was kept"):
        download.fetch("cifar10", tmp_path)
    assert_nothing(tmp_path)


def test_offline_says_the_way_by_hand(server, tmp_path, monkeypatch):
    with Server(server.content) as gone:
        offer(monkeypatch, gone)
    with pytest.raises(KitError, match="cannot be reached .*refused.*By hand: get .*data/README.md") as raised:
        download.fetch("cifar10", tmp_path)
    assert "\n" not in str(raised.value)
    assert_nothing(tmp_path)


def test_a_server_s_refusal_is_told(server, tmp_path):
    server.status = 404
    with pytest.raises(KitError, match="answers 404 Not Found. By hand"):
        download.fetch("cifar10", tmp_path)


def test_a_full_disk_is_noticed_before_the_download(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download.shutil, "disk_usage", lambda folder: types.SimpleNamespace(free=1000))
    with pytest.raises(KitError, match="1,000 bytes free"):
        download.fetch("cifar10", tmp_path)
    assert server.asked == []


def test_an_unknown_name_is_refused_with_those_that_are_known():
    with pytest.raises(KitError, match="did you mean 'cifar10'"):
        download.fetch("cifar")


# without TensorFlow, which a download needs as little as the minute that it may take to start on a busy machine
IN_ANOTHER_PROCESS = """
import sys
from pathlib import Path
from unittest.mock import MagicMock
sys.modules["tensorflow"] = MagicMock()
from kitlib.data import download
url, size, sha256, folder = sys.argv[1:]
download.SOURCES["cifar10"] = download.Archive("Toy data", "none", url, int(size), sha256, "toy-bin", {})
download.SOURCES["cifar10"].members.update({"toy-bin/train.bin": 300_000, "toy-bin/test.bin": 40_000})
download.fetch("cifar10", Path(folder))
"""


def test_a_kill_in_the_middle_leaves_nothing_half_written_and_the_next_call_goes_on(server, tmp_path):
    server.slow = True
    known = download.SOURCES["cifar10"]
    child = subprocess.Popen([sys.executable, "-c", IN_ANOTHER_PROCESS, known.url, str(known.size), known.sha256,
                              str(tmp_path)], stdout=subprocess.DEVNULL)
    part = tmp_path / ".cache/toy.tar.gz.part"
    while child.poll() is None and not (part.exists() and part.stat().st_size > 20_000):
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not (tmp_path / "toy-bin").exists() and 20_000 < part.stat().st_size < len(server.content)
    server.slow = False
    aside = tmp_path / ".toy-bin-abcd1234"      # as a kill while it unpacked would leave it
    (aside / "new").mkdir(parents=True)
    download.fetch("cifar10", tmp_path)
    assert server.asked[-1].startswith("bytes=")
    assert_whole(tmp_path)


def test_the_real_cifar10_is_what_the_kit_reads():
    known = download.SOURCES["cifar10"]
    assert known.target == sources.CIFAR10_FOLDER and len(known.members) == 6
    assert known.size == 170_052_171 and set(known.members.values()) == {30_730_000}
    text = (files.Path(sources.__file__).parents[2] / "data/README.md").read_text(encoding="utf-8")
    assert known.sha256 in text and f"{known.size:,}" in text


# The lung slices, with a kagglehub that is none

def lung_cache(folder):
    home = folder / "versions/1/The IQ-OTHNCCD lung cancer dataset"
    for number, name in enumerate(("Bengin cases", "Malignant cases", "Normal cases")):
        (home / name).mkdir(parents=True)
        Image.new("L", (20, 20), 40 * number).save(home / name / f"{name} (1).jpg")
    return folder / "versions/1"


@pytest.fixture
def kagglehub(monkeypatch, tmp_path):
    asked = []
    cache = lung_cache(tmp_path / "kagglehub")
    hub = types.SimpleNamespace(asked=asked, dataset_download=lambda handle: asked.append(handle) or str(cache))
    monkeypatch.setitem(sys.modules, "kagglehub", hub)
    hub.digest = hashlib.sha256("".join(sorted(map(files.sha256, cache.rglob("*.jpg")))).encode()).hexdigest()
    monkeypatch.setitem(download.SOURCES, "lung", dataclasses.replace(download.SOURCES["lung"], digest=hub.digest))
    return hub


def test_the_lung_slices_are_copied_whole_and_once(kagglehub, tmp_path, capsys):
    for _ in range(2):
        assert download.fetch("lung", tmp_path / "data") == tmp_path / "data/iq-othnccd"
    assert kagglehub.asked == [sources.LUNG_KAGGLE]
    assert sources.lung_below(tmp_path / "data/iq-othnccd")
    said = capsys.readouterr().out
    assert sources.LUNG_KAGGLE in said and "60 MB" in said and "CC BY 4.0" in said


def test_changed_lung_slices_are_not_put_into_the_data_folder(kagglehub, tmp_path, monkeypatch):
    monkeypatch.setitem(download.SOURCES, "lung", dataclasses.replace(download.SOURCES["lung"], digest="0" * 64))
    with pytest.raises(KitError, match="3 pictures, their sha256 differs.*By hand"):
        download.fetch("lung", tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_without_kagglehub_or_offline_the_lung_slices_have_a_way_by_hand(kagglehub, tmp_path, monkeypatch):
    def fail(handle):
        raise OSError("no route to host")

    kagglehub.dataset_download = fail
    with pytest.raises(KitError, match="could not be downloaded .no route to host.*By hand"):
        download.fetch("lung", tmp_path / "data")
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    with pytest.raises(KitError, match="pip install kagglehub. By hand"):
        download.fetch("lung", tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_the_reference_copy_of_the_lung_slices_is_the_one_that_is_asked_for():
    assert download.SOURCES["lung"].digest == sources.LUNG_DIGEST
