"""CIFAR-10 and the lung slices, fetched into the data folder. `fetch` is the way in; importing this does nothing."""
from __future__ import annotations

import dataclasses
import hashlib
import http.client
import os
import shutil
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from kitlib.base import files
from kitlib.base.places import data_folder
from kitlib.base.settings import KitError, choose
from kitlib.data import folders, sources
from kitlib.data.decoding import printable

TRIES = 3           # connections that may be cut before we give up
TIMEOUT = 60        # seconds without a byte
_CHUNK = 2**18
_MAKE_ROOM = "free space or choose another data folder (KITLIB_DATA)"


@dataclasses.dataclass(frozen=True)
class Archive:
    """A .tar.gz on a server, and the regular files of it that become the folder `target`.

    members: path in the archive and size in bytes; only these are unpacked, each under its last name.
    """

    title: str
    licence: str
    url: str
    size: int
    sha256: str
    target: str
    members: dict[str, int]

    def place(self, folder: Path) -> Path:
        return folder / self.target

    def is_there(self, folder: Path) -> bool:
        place = self.place(folder)
        return all((place / Path(name).name).is_file() and (place / Path(name).name).stat().st_size == size
                   for name, size in self.members.items())

    @property
    def offer(self) -> str:
        return (f"{self.title}\nfrom {self.url}\n{_megabytes(self.size)} to download, "
                f"{_megabytes(sum(self.members.values()))} unpacked\nlicence: {self.licence}")

    @property
    def by_hand(self) -> str:
        return (f"By hand: get {self.url} elsewhere, unpack it, and put its folder {self.target} into the data folder "
                "(data/README.md)")

    def get(self, folder: Path, progress: bool | None) -> None:
        files.check_folder(self.place(folder), may_hold={Path(name).name for name in self.members})
        with files.locked(folder / ".cache", "download", waits=True):
            if self.is_there(folder):           # another process was faster
                return
            for left in folder.glob(f".{self.target}-????????"):    # by a killed unpacking
                if not (left / "old").exists():     # which `atomic_folder` brings back
                    shutil.rmtree(left, ignore_errors=True)
            part = folder / ".cache" / f"{self.url.rpartition('/')[2]}.part"
            _refuse_full_disk(folder, self.size + sum(self.members.values()))
            self._download_checked(part, progress)
            self._unpack(part, folder)
            part.unlink()

    def _download_checked(self, part: Path, progress: bool | None) -> None:
        resumed = part.exists()
        _download(self, part, progress)
        if files.sha256(part) == self.sha256:
            return
        part.unlink()
        if not resumed:
            raise KitError(f"{self.url} is not the archive that kitlib knows (its sha256 differs): it was changed "
                           f"there or on its way, and nothing was kept. {self.by_hand}")
        self._download_checked(part, progress)  # the first half may have been of another file

    def _unpack(self, archive: Path, folder: Path) -> None:
        """The members by name, so that no path and no link of the archive decides where anything is written."""
        try:
            with files.atomic_folder(self.place(folder)) as new, tarfile.open(archive) as opened:
                for name, size in self.members.items():
                    member = opened.getmember(name)
                    source = opened.extractfile(member) if member.isreg() and member.size == size else None
                    if source is None:
                        raise KeyError(name)
                    with source, open(new / Path(name).name, "wb") as target:
                        shutil.copyfileobj(source, target)
        except (tarfile.TarError, KeyError, EOFError) as error:
            archive.unlink()
            raise KitError(f"{self.url} does not hold the files of {self.target} ({error}): nothing was kept. "
                           f"{self.by_hand}") from None


def _download(archive: Archive, part: Path, progress: bool | None) -> None:
    """Bring `part` to the archive's size, from where it is now."""
    for left in reversed(range(TRIES)):
        try:
            if _more(archive, part, progress):
                return
        except urllib.error.HTTPError as error:
            if error.code != 416:               # which says that the part is no beginning of the file
                raise KitError(f"{archive.url} answers {error.code} {error.reason}. {archive.by_hand}") from None
            part.unlink(missing_ok=True)
        except (OSError, http.client.HTTPException) as error:
            if not left:
                raise KitError(f"{archive.url} cannot be reached ({getattr(error, 'reason', None) or error})"
                               f"{_kept(archive, part)}. {archive.by_hand}") from None
    raise KitError(f"the connection to {archive.url} was cut{_kept(archive, part)}. {archive.by_hand}")


def _more(archive: Archive, part: Path, progress: bool | None) -> bool:
    """One connection: append to `part` what it lacks; whether it is whole then."""
    have = part.stat().st_size if part.exists() else 0
    if have > archive.size:
        part.unlink()
        have = 0
    if have == archive.size:
        return True
    request = urllib.request.Request(archive.url, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        if answer.status != 206:                # the server sends all of it
            have = 0
        length = answer.headers.get("Content-Length")
        if length is not None and have + int(length) != archive.size:
            raise KitError(f"{archive.url} has {have + int(length):,} bytes instead of {archive.size:,}: it is not the "
                           f"archive that kitlib knows, and nothing of it was kept. {archive.by_hand}")
        with tqdm(total=archive.size, initial=have, unit="B", unit_scale=True, desc=part.stem,
                  disable=None if progress is None else not progress) as bar:     # None: off without a terminal
            part.open("ab" if have else "wb").close()
            while chunk := answer.read(_CHUNK):
                _append(part, chunk)
                bar.update(len(chunk))
    return part.stat().st_size >= archive.size


def _append(part: Path, chunk: bytes) -> None:
    try:
        with open(part, "ab") as file:
            file.write(chunk)
    except OSError as error:        # not to be taken for one of the connection
        raise KitError(f"{printable(part)} cannot be written ({error.strerror}): {_MAKE_ROOM}") from None


def _kept(archive: Archive, part: Path) -> str:
    have = part.stat().st_size if part.exists() else 0
    return f" after {_megabytes(have)} of {_megabytes(archive.size)}; the same call goes on from there" if have else ""


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB" if count >= 1e6 else f"{count:,} bytes"


def _refuse_full_disk(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise KitError(f"{printable(folder)} has {_megabytes(free)} free, and {_megabytes(needed)} are needed: "
                       f"{_MAKE_ROOM}")


@dataclasses.dataclass(frozen=True)
class Kaggle:
    """The lung slices, which kagglehub downloads (with progress and resume) and unpacks into its own cache."""

    title: str
    licence: str
    size: int
    digest: str
    target: str = sources.LUNG_FOLDERS[0]

    def place(self, folder: Path) -> Path:
        homes = filter(None, (sources.lung_below(folder / name) for name in sources.LUNG_FOLDERS))
        return next((home for home, _ in homes), folder / self.target)

    def is_there(self, folder: Path) -> bool:
        return sources.lung_below(self.place(folder)) is not None

    @property
    def offer(self) -> str:
        return (f"{self.title}\nfrom Kaggle, {sources.LUNG_KAGGLE} (no login needed)\nabout {_megabytes(self.size)}; "
                f"kagglehub keeps a copy in its own cache\nlicence: {self.licence}")

    @property
    def by_hand(self) -> str:
        return (f"By hand: download {sources.LUNG_KAGGLE} from Kaggle in a browser and unpack it into {self.target} "
                "in the data folder (data/README.md)")

    def get(self, folder: Path, progress: bool | None) -> None:
        try:
            import kagglehub
        except ImportError:
            raise KitError(f"the lung slices need kagglehub: pip install kagglehub. {self.by_hand}") from None
        try:
            got = Path(kagglehub.dataset_download(sources.LUNG_KAGGLE))
        except Exception as error:  # kagglehub raises its own and those of requests
            raise KitError(f"the lung slices could not be downloaded ({error!s:.100}). {self.by_hand}") from None
        found = sources.lung_below(got)
        pictures = folders.of_classes(found[0], {"all": found[1]}, list(found[1])).paths if found else ()
        digest = hashlib.sha256("".join(sorted(map(files.sha256, pictures))).encode()).hexdigest()
        if found is None or digest != self.digest:
            raise KitError(f"the download in {printable(got)} is not the data set that kitlib knows ({len(pictures):,} "
                           "pictures, their sha256 differs), and nothing was put into the data folder. "
                           f"{self.by_hand}; kitlib reads a changed one, too, and says so")
        with files.atomic_folder(folder / self.target) as new:
            for place in found[1].values():
                shutil.copytree(place, new / place.name)


SOURCES: dict[str, Archive | Kaggle] = {
    "cifar10": Archive(
        "CIFAR-10 (Krizhevsky 2009): 60,000 colour pictures of 32 x 32 pixels",
        "its authors name none and ask to cite their report, 'Learning multiple layers of features from tiny images'",
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", 170_052_171,
        "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd", sources.CIFAR10_FOLDER,
        {f"{sources.CIFAR10_FOLDER}/{name}.bin": sources.CIFAR10_RECORDS * sources.CIFAR10_RECORD
         for name in sources.CIFAR10_FILES}),
    "lung": Kaggle(
        "IQ-OTH/NCCD (Alyasriy & Al-Huseiny): 1,097 CT slices of the lung",
        "CC BY 4.0, as its authors say on Mendeley Data (doi:10.17632/bhmdr45bh2)", 60244087, sources.LUNG_DIGEST),
}


def fetch(name: str, folder: Path | None = None, *, say: Callable[[str], object] = print,
          progress: bool | None = None) -> Path:
    """Put the data set `name` ("cifar10" or "lung") into the data folder, unless it is there; returns where it lies.

    Says first where it comes from, its size and its licence. A cut or killed download is taken up where it ended, the
    archive's hash is checked before it is opened, and its folder appears whole or not at all.
    folder: default `data_folder()`. progress: a bar (None: on a terminal).
    Raises KitError, with the way by hand, where the server cannot be reached or the file is another one.
    """
    source = choose(name, SOURCES, "data set to download")
    folder = data_folder() if folder is None else Path(os.path.abspath(folder))
    if not source.is_there(folder):
        say(f"{source.offer}\nto {printable(folder / source.target)}")
        source.get(folder, progress)
    say(f"{name} is in {printable(source.place(folder))}")
    return source.place(folder)
