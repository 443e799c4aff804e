"""Images and labels to judge with: a known data set, a folder of images, an .npz, or a prepared run."""
from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np

from kitlib import data
from kitlib.attacks.checks import in_the_box
from kitlib.audit import folder
from kitlib.base.files import read_arrays
from kitlib.base.settings import KitError, first_few
from kitlib.data.pictures import Loading
from kitlib.data.settings import DEFAULTS

NAMES = tuple(name for name in DEFAULTS if name != "image_folder")
# Names under which an .npz may hold the images to judge with, and those trained on.
JUDGED = (("x_test", "y_test"), ("test_images", "test_labels"), ("images", "labels"), ("x", "y"))
TRAINED = (("x_train", "y_train"), ("train_images", "train_labels"))


@dataclasses.dataclass(frozen=True)
class JudgedData:
    """Images (float32, N x H x W x C, in [0, 1]), labels (int32 N), and the names of the classes in the order of the
    model's outputs. source, class_order: where they are from and how the order was found, in words. train_images
    (float32 or uint8), train_labels: what the data set itself holds to train on, None where it has no such part.
    pictures: the files behind `images`, in the same order, where they are files.
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    source: str
    class_order: str
    synthetic: bool = False
    train_images: np.ndarray | None = None
    train_labels: np.ndarray | None = None
    pictures: folder.Pictures | None = None

    def some(self, count: int, seed: int) -> JudgedData:
        """At most `count` of the images, drawn at random."""
        if count >= len(self.images):
            return self
        rows = np.sort(np.random.default_rng(seed).permutation(len(self.images))[:count])
        return dataclasses.replace(self, images=self.images[rows], labels=self.labels[rows])


@dataclasses.dataclass(frozen=True)
class DataRequest:
    """What is asked of the images. shape: H x W x C, None where the model takes any. classes: outputs of the model,
    where they are known. order: class names in the order of the outputs, where it is not the data's own. loading: how
    pictures are brought to the shape; None where nothing was said of it. count: at most so many, drawn with `seed`.
    """

    shape: tuple
    classes: int | None
    order: tuple[str, ...] = ()
    loading: Loading | None = None
    count: int = 10**9
    seed: int = 0


def read(where: str, asked: DataRequest) -> JudgedData:
    """Images and labels that `where` names: a data set, a folder of pictures, or an .npz.

    Raises KitError where there is nothing, or it does not fit the model.
    """
    found = _read(where, asked)
    _check_shape(found.images, asked.shape, where)
    return _in_order(found, asked.classes, asked.order).some(asked.count, asked.seed)


def read_training(where: str, asked: DataRequest) -> tuple[np.ndarray, np.ndarray]:
    """Images (float32 or uint8, N x H x W x C) and labels (int32 N) that were trained on, from a place of the same
    kinds: those of its training part, where it has one, else all. Raises KitError as `read`."""
    found = _in_order(_read(where, asked, training=True), asked.classes, asked.order)
    images, labels = found.images, found.labels
    if found.train_images is not None and found.train_labels is not None:
        images, labels = found.train_images, found.train_labels
    _check_shape(images, asked.shape, where)
    return images, labels


def _read(where: str, asked: DataRequest, training: bool = False) -> JudgedData:
    path = Path(os.path.abspath(os.path.expanduser(where)))
    if asked.loading is not None and not training and (where in NAMES or path.suffix.lower() == ".npz"):
        raise KitError("--pictures, --interpolation, --resize and --intensity say how the pictures of a folder are "
                       f"loaded, and {where} is none")
    if where in NAMES:
        found = _from_dataset(data.load(_settings(asked.shape, where), seed=0))
        return dataclasses.replace(found, source=f"{found.source}; {' x '.join(map(str, found.images.shape[1:]))}")
    if path.suffix.lower() == ".npz":
        return _from_npz(path, asked, TRAINED + JUDGED if training else JUDGED)
    if os.path.isdir(path):
        return _from_folder(path, asked, folder.TRAINING if training else folder.JUDGED)
    option = "--train-data" if training else "--data"
    raise KitError(f"{option}: '{where}' is neither a data set ({', '.join(NAMES)}) nor a folder of images nor an .npz")


def _check_shape(images: np.ndarray, shape: tuple, where: str) -> None:
    for asked, given in zip(shape, images.shape[1:], strict=True):
        if asked not in (None, given):
            raise KitError(f"the model takes images of {tuple(shape)}, but those of {where} are {images.shape[1:]}")


def _settings(shape, name: str) -> data.DataSettings:
    """Data settings for square images of the model's size and channels."""
    height, width, channels = shape
    if height != width:
        raise KitError(f"the model takes images of {height} x {width}; the kit prepares square ones only: prepare them "
                       "yourself and give an .npz")
    given = {"size": height, "channels": channels}
    return data.DataSettings.read({"name": name, **{key: value for key, value in given.items() if value}}, "--data")


def _from_dataset(dataset: data.Dataset) -> JudgedData:
    """Its test part, and its training part."""
    images, labels = dataset.part("test")
    return JudgedData(images, labels, dataset.class_names, dataset.source,
                    f"as in {dataset.name}: {_numbered(dataset.class_names)}", dataset.synthetic,
                    dataset.images[dataset.split["train"]], dataset.labels_of("train"))


def _from_folder(path: Path, asked: DataRequest, parts: tuple[str, ...]) -> JudgedData:
    found = folder.read(path, asked.shape, asked.count, asked.seed, asked.loading or Loading(), parts)
    order = f"folders in alphabetical order, as Keras and torchvision number them: {_numbered(found.class_names)}"
    judged, trained = found.judged, found.trained
    images, labels = (trained.images, trained.labels) if trained else (None, None)
    return JudgedData(judged.images, judged.labels, found.class_names, found.source, order, pictures=judged,
                      train_images=images, train_labels=labels)


def _numbered(names) -> str:
    shown = ", ".join(f"{number} = {name}" for number, name in enumerate(names[:10]))
    return shown + (f", ... ({len(names)} in all)" if len(names) > 10 else "")


def _from_npz(path: Path, asked: DataRequest, keys) -> JudgedData:
    arrays = read_arrays(path)
    if "about" in arrays:
        return _from_dataset(data.Dataset.load(path))
    names = tuple(name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else str(name)
                  for name in np.ravel(arrays.get("class_names", asked.order or range(asked.classes or 0))))
    if not names:
        raise KitError(f"{path.name} does not say how many classes there are: give their names with --class-order")
    if twice := [name for name in names if names.count(name) > 1]:
        where = path.name if "class_names" in arrays else "--class-order"
        raise KitError(f"{where} names two classes '{twice[0]}': give each a name of its own")
    pair, train = (next((pair for pair in pairs if set(pair) <= set(arrays)), None) for pairs in (keys, TRAINED))
    if pair is None:
        raise KitError(f"{path.name} holds {', '.join(arrays) or 'nothing'}: it must hold "
                       f"{' or '.join(f'{x} and {y}' for x, y in keys)}")
    images, labels = _pair(arrays, pair, path, len(names))
    trained = (None, None) if train is None else _pair(arrays, train, path, len(names))
    unseen = [name for number, name in enumerate(names) if number not in labels]
    source = f"{len(images):,} images in {path.name}" + (f"; of {first_few(unseen)} there is none" if unseen else "")
    return JudgedData(images, labels, names, source,
                    f"labels as in the file: {_numbered(names)}", train_images=trained[0], train_labels=trained[1])


def _pair(arrays, names: tuple[str, str], path: Path, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels that belong together, by their names in the file."""
    images, labels = (_images(arrays[names[0]], f"{path.name}, {names[0]}"),
                      _labels(arrays[names[1]], f"{path.name}, {names[1]}"))
    if len(images) != len(labels):
        raise KitError(f"{path.name} holds {len(images)} images ({names[0]}) and {len(labels)} labels ({names[1]})")
    if labels.min() < 0 or labels.max() >= classes:
        raise KitError(f"{path.name}, {names[1]}: labels reach from {labels.min()} to {labels.max()}, but there are "
                       f"{classes} classes (0 to {classes - 1})")
    return images, labels.astype(np.int32)


def _images(images: np.ndarray, where: str) -> np.ndarray:
    """Images of an .npz as float32 N x H x W x C in [0, 1]; integers count as 0 to 255."""
    images = images[..., None] if images.ndim == 3 else images
    if images.ndim != 4 or 0 in images.shape:
        raise KitError(f"{where}: images must be N x H x W or N x H x W x C, not {images.shape}")
    if images.dtype == np.uint8:
        return images.astype(np.float32) / np.float32(255)
    if not np.issubdtype(images.dtype, np.number) or np.issubdtype(images.dtype, np.complexfloating):
        raise KitError(f"{where}: pixels must be numbers, not {images.dtype}")
    boxed = in_the_box(images) if np.issubdtype(images.dtype, np.floating) else None
    if boxed is None:
        raise KitError(f"{where}: pixels must be whole numbers of 8 bits (uint8), or floats in [0, 1]; these are "
                       f"{images.dtype} from {images.min():.4g} to {images.max():.4g}")
    return boxed


def _labels(labels: np.ndarray, where: str) -> np.ndarray:
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise KitError(f"{where}: labels must be one whole number an image, not {labels.dtype} of shape {labels.shape}")
    return labels


def _in_order(found: JudgedData, classes: int | None, order: tuple[str, ...]) -> JudgedData:
    """The data with labels that are positions among the model's outputs."""
    if order:
        unknown = sorted(set(found.class_names) - set(order))
        if unknown or len(set(order)) < len(order):
            raise KitError(f"--class-order must name each class once; it lacks {', '.join(unknown) or 'none'} of the "
                           "data's")
        place = np.array([order.index(name) for name in found.class_names], np.int32)
        train = None if found.train_labels is None else place[found.train_labels]
        found = dataclasses.replace(found, labels=place[found.labels], train_labels=train, class_names=tuple(order),
                                    class_order=f"as given: {_numbered(order)}")
    if classes is not None and len(found.class_names) != classes:
        raise KitError(f"the model has {classes} outputs, but the data have {len(found.class_names)} classes "
                       f"({_numbered(found.class_names)}); give the model that belongs to them, or all its classes in "
                       "the order of its outputs with --class-order")
    return found
