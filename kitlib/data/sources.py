"""Reading each data set. `load` is the way in."""
from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import pickletools
import tarfile
from collections import Counter
from pathlib import Path
from typing import IO

import numpy as np

from kitlib.base import files
from kitlib.base.places import data_folder
from kitlib.base.settings import KitError
from kitlib.data import folders, phantom, similarity, splits
from kitlib.data.dataset import Dataset
from kitlib.data.decoding import printable
from kitlib.data.folders import PictureFolder, inner_folders
from kitlib.data.pictures import fit, read_pictures, refuse_beyond_memory
from kitlib.data.settings import DataSettings

HOW_TO = "set KITLIB_DATA to the folder that holds it; data/README.md says how to get it"

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR10_FOLDER = "cifar-10-batches-bin"
CIFAR10_FILES = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
CIFAR10_RECORDS = 10_000
CIFAR10_RECORD = 1 + 32 * 32 * 3
CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
CIFAR10_ARCHIVE_SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
# sha256 over the sorted sha256 of the records (label, then pixels channel-first), train and test apart.
CIFAR10_DIGESTS = {"train": "55a61f79a40ece2ceda9fb5f9f7078f6ea2fc4952489cef56682bcf92cfcc260",
                   "test": "325704b01eb92e1e2a6215ae6a916bb7db7de054af0c496be1c7be2e0fcfbf5f"}

LUNG_CLASSES = {"benign": ("benign", "bengin"), "malignant": ("malignant",), "normal": ("normal",)}
LUNG_FOLDERS = ("iq-othnccd", "iq_othnccd", "The IQ-OTHNCCD lung cancer dataset", "")
LUNG_KAGGLE = "hamdallak/the-iqothnccd-lung-cancer-dataset"
# sha256 over the sorted sha256 of the 1,097 JPEG files.
LUNG_DIGEST = "a9bbf6f4d6592d1ac710bc45be6ce142eaa7d080857247e4e17ae8c576e9bbca"


def load(settings: DataSettings, seed: int, folder: Path | None = None) -> Dataset:
    """Read, prepare and split a data set; the same settings and seed give the same images in the same order.

    `folder` is the data folder (default: `data_folder()`). `seed` decides the split and the limits, and for
    `phantom_ct` also what is drawn. Raises KitError where data are missing (it says where it looked), cannot be
    read, or cannot be split as asked.
    """
    if seed < 0:
        raise KitError(f"seed: must be zero or more (got {seed})")
    folder = Path(folder) if folder is not None else data_folder()
    try:
        whole = READERS[settings.name](settings, seed, folder)
    except PermissionError as error:  # looking for a file raises it where a folder may not be entered
        raise KitError(f"{printable(error.filename)} cannot be read: you lack the permission") from None
    parts = splits.split(whole.labels, settings.split, seed, whole.class_names, whole.split, whole.groups)
    rng = np.random.default_rng([seed, 1])
    for part, limit in settings.limits.model_dump().items():
        if limit is not None and limit < len(whole.class_names):
            raise KitError(f"limits: {limit} {part} images are too few for {len(whole.class_names)} classes")
        if limit is not None:
            parts[part] = splits.stratified(whole.labels, parts[part], limit, rng)
    facts = {"whole": {name: int((whole.labels == k).sum()) for k, name in enumerate(whole.class_names)}} | whole.facts
    data = dataclasses.replace(whole, split=parts, facts=facts).only_split()
    refuse_beyond_memory(len(data.labels), settings.size, settings.size, settings.channels)
    return dataclasses.replace(data, images=fit(data.images, settings.size, settings.channels))


def _digits(settings, seed, folder):
    from sklearn.datasets import load_digits  # slow to import

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    return Dataset("digits", images, digits.target.astype(np.int32), tuple("0123456789"), {},
                   "1,797 real handwritten digits of 8 x 8 pixels from scikit-learn (UCI), enlarged")


def _phantom_ct(settings, seed, folder):
    refuse_beyond_memory(settings.count, settings.size, settings.size, channels=1)
    images, labels, patients = phantom.draw(settings.count, settings.size, seed)
    source = f"{settings.count} synthetic CT-like slices of {patients[-1] + 1} drawn patients (seed {seed})"
    return Dataset("phantom_ct", images, labels, phantom.CLASSES, {}, source, synthetic=True, groups=patients)


def _cifar10(settings, seed, folder):
    records, found = _cifar10_records(settings, folder)
    train, train_digest = _in_order_of_digest(records[:5 * CIFAR10_RECORDS])
    test, test_digest = _in_order_of_digest(records[5 * CIFAR10_RECORDS:])
    digests = {"train": train_digest, "test": test_digest}
    expected = digests == CIFAR10_DIGESTS
    records = np.concatenate([train, test])
    images = np.ascontiguousarray(records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    given = {"train": np.arange(len(train)), "test": np.arange(len(train), len(records))}
    judged = "the contents are" if expected else "the contents are NOT"
    return Dataset("cifar10", images, records[:, 0].astype(np.int32), CIFAR10_CLASSES, given,
                   f"CIFAR-10 (Krizhevsky 2009), {len(records):,} images in {printable(found.name)}; {judged} official",
                   facts={"as_expected": expected, "digest": digests})


def _in_order_of_digest(records):
    """Records sorted by their sha256, and the sha256 of those.

    So a copy with the records in another order gives the same split, subset and digest."""
    digests = [hashlib.sha256(record).digest() for record in records]
    order = sorted(range(len(digests)), key=digests.__getitem__)
    return records[order], hashlib.sha256(b"".join(sorted(digests))).hexdigest()


def _cifar10_records(settings, folder):
    """60,000 x 3,073 bytes (label, pixels channel-first), train before test, and where they were found."""
    looked = [folder / CIFAR10_FOLDER, folder / CIFAR10_FOLDER / CIFAR10_FOLDER]
    for place in reversed(looked):
        if (place / "data_batch_1.bin").exists() or (place == looked[0] and place.is_dir()):
            return np.concatenate([_cifar10_binary(place / f"{name}.bin") for name in CIFAR10_FILES]), place
    kept = folder / ".cache" / "cifar10.npz"
    if kept.exists():
        return files.read_arrays(kept)["records"], kept
    archive = _cifar10_archive(settings, folder, looked)
    records = _cifar10_from_archive(archive)
    with contextlib.suppress(KitError):  # a folder that cannot be written only costs the time to read it again
        files.write_arrays(kept, records=records)
    return records, archive


def _cifar10_binary(path: Path) -> np.ndarray:
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise KitError(f"CIFAR-10: {printable(path)} cannot be read ({error.strerror}); it needs "
                       f"{', '.join(CIFAR10_FILES)}, each .bin") from None
    if len(data) != CIFAR10_RECORDS * CIFAR10_RECORD:
        raise KitError(f"CIFAR-10: {printable(path)} has {len(data):,} bytes instead of "
                       f"{CIFAR10_RECORDS * CIFAR10_RECORD:,}: it is cut short or something else; get it again")
    records = data.reshape(CIFAR10_RECORDS, CIFAR10_RECORD)
    if records[:, 0].max() > 9:
        raise KitError(f"CIFAR-10: {printable(path)} holds labels above 9: it is damaged; get it again")
    return records


def _cifar10_archive(settings, folder, looked) -> Path:
    """The official archive in the data folder or in Keras's, or downloaded by Keras where allowed."""
    keras_home = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser() / "datasets"
    places = [folder / "cifar-10-python.tar.gz", keras_home / "cifar-10-batches-py-target_archive",
              keras_home / "cifar-10-batches-py.tar.gz"]
    for place in places:
        if place.is_file():
            return place
    if settings.download:
        return _download_cifar10(folder)
    raise KitError(f"CIFAR-10 is neither in {', '.join(printable(place) for place in looked + places)}: {HOW_TO}, or "
                   "set 'download: true'")


def _download_cifar10(folder: Path) -> Path:
    import keras  # slow to import

    try:
        return Path(keras.utils.get_file("cifar-10-python.tar.gz", CIFAR10_URL, cache_dir=folder, cache_subdir="",
                                         file_hash=CIFAR10_ARCHIVE_SHA256))
    except Exception as error:  # Keras raises bare Exceptions
        raise KitError(f"CIFAR-10 could not be downloaded ({error}); {HOW_TO}") from None


def _cifar10_from_archive(path: Path) -> np.ndarray:
    """Records of the official archive. Its members are pickles: their opcodes are read, nothing is unpickled."""
    if files.sha256(path) != CIFAR10_ARCHIVE_SHA256:
        raise KitError(f"{printable(path)} is not the official archive (its sha256 differs): delete it and get it "
                       "again")
    with tarfile.open(path) as archive:
        return np.concatenate([_records_in_pickle(archive.extractfile(f"cifar-10-batches-py/{name}") or b".")
                               for name in CIFAR10_FILES])


def _records_in_pickle(data: IO[bytes] | bytes) -> np.ndarray:
    labels: list[int] = []
    pixels, in_labels = None, False
    for opcode, value, _ in pickletools.genops(data):
        if isinstance(value, str) and len(value) == CIFAR10_RECORDS * (CIFAR10_RECORD - 1):
            pixels = np.frombuffer(value.encode("latin-1"), np.uint8)
        elif value == "labels":
            in_labels = True
        elif in_labels and opcode.name == "BININT1" and isinstance(value, int) and len(labels) < CIFAR10_RECORDS:
            labels.append(value)
    if pixels is None or len(labels) != CIFAR10_RECORDS or max(labels) > 9:
        raise KitError("CIFAR-10: the archive's batches are not laid out as published: get it again")
    return np.hstack([np.array(labels, np.uint8)[:, None], pixels.reshape(CIFAR10_RECORDS, -1)])


def _iq_othnccd(settings, seed, folder):
    home, by_class = _find_lung(settings, folder)
    listed = folders.of_classes(home, {folders.WHOLE: by_class}, sorted(by_class))
    data, thumbnails = _from_files(settings, listed, folder, channels=1)
    digest = hashlib.sha256("".join(sorted(data.digests)).encode()).hexdigest()
    expected = digest == LUNG_DIGEST
    source = (f"IQ-OTH/NCCD lung CT slices (Alyasriy & Al-Huseiny), {len(data.labels):,} files "
              f"in {printable(home.name)}, "
              f"{'the same as' if expected else 'NOT the same as'} those of the reference results")
    return dataclasses.replace(data, source=source, facts=data.facts | {"as_expected": expected, "digest": digest},
                               groups=similarity.find_groups(thumbnails, data.labels))


def _find_lung(settings, folder) -> tuple[Path, dict[str, Path]]:
    looked = [folder / name for name in LUNG_FOLDERS]
    for place in looked:
        found = lung_below(place)
        if found:
            return found
    if not settings.download:
        raise KitError(f"the IQ-OTH/NCCD lung data are in none of {', '.join(printable(place) for place in looked)} "
                       f"(looked for folders of benign, malignant and normal cases, two levels down): {HOW_TO}, or set "
                       "'download: true'")
    downloaded = _download_lung()
    found = lung_below(downloaded)
    if not found:
        raise KitError(f"the download in {printable(downloaded)} has no folders of benign, malignant and normal cases")
    return found


def lung_below(place: Path, levels: int = 2) -> tuple[Path, dict[str, Path]] | None:
    """The folder at or below `place` that holds the three classes."""
    inner = inner_folders(place)
    by_class = {name: [entry for entry in inner if entry.name.lower().startswith(starts)]
                for name, starts in LUNG_CLASSES.items()}
    if all(len(found) == 1 for found in by_class.values()):
        return place, {name: found[0] for name, found in by_class.items()}
    open_ones = [entry for entry in inner if os.access(entry, os.R_OK | os.X_OK)] if levels else []
    return next(filter(None, (lung_below(entry, levels - 1) for entry in open_ones)), None)


def _download_lung() -> Path:
    try:
        import kagglehub
    except ImportError:
        raise KitError("downloading the IQ-OTH/NCCD data needs kagglehub: pip install kagglehub") from None
    try:
        return Path(kagglehub.dataset_download(LUNG_KAGGLE))
    except Exception as error:
        raise KitError(f"the IQ-OTH/NCCD data could not be downloaded ({error}); {HOW_TO}") from None


def images_home(settings: DataSettings, folder: Path) -> Path:
    """The folder of `image_folder`: its path, taken from the data folder where it is not absolute."""
    return folder / os.path.expanduser(settings.path or "")


def _image_folder(settings, seed, folder):
    home = images_home(settings, folder)
    if not home.is_dir():
        raise KitError(f"image_folder: there is no folder {printable(home)}; it must hold <class>/<image>")
    listed = folders.read(home)
    if listed.own_parts and settings.split.kind != "given":
        raise KitError(f"{printable(home)} has parts of its own ({', '.join(listed.own_parts)}), which a "
                       f"'{settings.split.kind}' split would mix: set split: {{kind: given}}")
    groups = listed.groups
    data, thumbnails = _from_files(settings, listed, folder, channels=settings.channels)
    if groups is None and settings.split.kind == "grouped":
        groups = similarity.find_groups(thumbnails, data.labels)
    return dataclasses.replace(data, groups=groups)


def _from_files(settings, listed: PictureFolder, folder, channels) -> tuple[Dataset, np.ndarray]:
    """The pictures of a folder as a data set, and their thumbnails."""
    _refuse_too_few(listed)
    arrays = read_pictures(list(listed.paths), settings.form(channels), folder / ".cache")
    home, unread = printable(listed.home.name), listed.unread_words()
    source = f"{len(listed.paths):,} image files in {home}" + (f" (not read: {unread})" if unread else "")
    given = {part: np.flatnonzero(listed.parts == part) for part in listed.own_parts}
    data = Dataset(settings.name, arrays["images"], listed.labels, listed.class_names, given, source,
                   files=listed.names(), digests=arrays["digests"],
                   facts={"shapes": dict(Counter(arrays["shapes"].tolist()).most_common())})
    return data, arrays["thumbnails"]


def _refuse_too_few(listed: PictureFolder) -> None:
    home, names = printable(listed.home), listed.class_names
    if len(names) < 2:
        raise KitError(f"{home} holds only one class ('{names[0]}'); a classifier needs two or more")
    counts = np.bincount(listed.labels, minlength=len(names))
    if counts.min() < 3:
        unread = f" (not read: {listed.unread_words()})" if listed.unread else ""
        raise KitError(f"{home}: class '{names[counts.argmin()]}' has {counts.min()} images{unread}; each class needs "
                       "three or more, one each to train, validate and test")


READERS = {"digits": _digits, "phantom_ct": _phantom_ct, "cifar10": _cifar10, "iq_othnccd": _iq_othnccd,
           "image_folder": _image_folder}
