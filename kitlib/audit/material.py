"""Images and labels to judge with: a known data set, a folder of images, an .npz, or a prepared run."""
from __future__ import annotations

import dataclasses
from pathlib import Path

from kitlib import data
from kitlib.data.settings import DEFAULTS
from kitlib.files import read_arrays
from kitlib.settings import KitError

import numpy as np

NAMES = tuple(name for name in DEFAULTS if name != "image_folder")
# Names under which an .npz may hold the images to judge with, and those trained on.
JUDGED = (("x_test", "y_test"), ("images", "labels"), ("x", "y"))
TRAINED = (("x_train", "y_train"), ("train_images", "train_labels"))


@dataclasses.dataclass(frozen=True)
class Material:
    """Images (float32, N x H x W x C, in [0, 1]), labels (int32 N), and the names of the classes in the order of the
    model's outputs. source, class_order: where they are from and how the order was found, in words. train_images
    (float32 or uint8), train_labels: what the data set itself holds to train on, None where it has no such part.
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    source: str
    class_order: str
    synthetic: bool = False
    train_images: np.ndarray | None = None
    train_labels: np.ndarray | None = None

    def some(self, count: int, seed: int) -> Material:
        """At most `count` of the images, drawn at random."""
        rows = np.sort(np.random.default_rng(seed).permutation(len(self.images))[:count])
        return dataclasses.replace(self, images=self.images[rows], labels=self.labels[rows])


def read(where: str, shape: tuple, classes: int | None, order: tuple[str, ...] = ()) -> Material:
    """Read what `where` names, prepared for a model that takes images of `shape` (None where it takes any).

    classes: outputs of the model, where they are known. order: class names in the order of the outputs, where it
    is not the data's own.
    Raises KitError where there is nothing, or it does not fit the model.
    """
    path = Path(where).expanduser().absolute()
    if where in NAMES:
        found = _from_dataset(data.load(_settings(shape, name=where), seed=0), whole=False)
    elif path.suffix == ".npz":
        found = _from_npz(path, classes, order)
    elif path.is_dir():
        found = _from_folder(path, shape)
    else:
        raise KitError(f"--data: '{where}' is neither a data set ({', '.join(NAMES)}) nor a folder of images nor an "
                       f".npz")
    return _in_order(found, classes, order)


def _settings(shape, **more) -> data.DataSettings:
    """Data settings for square images of the model's size and channels."""
    height, width, channels = shape
    if height != width:
        raise KitError(f"the model takes images of {height} x {width}; the kit prepares square ones only: prepare them "
                       "yourself and give an .npz")
    given = {"size": height, "channels": channels}
    return data.DataSettings.read({**more, **{key: value for key, value in given.items() if value}}, "--data")


def _from_dataset(dataset: data.Dataset, whole: bool) -> Material:
    """The test part (or all images, where `whole`), and the training part where the data set itself has one."""
    order = f"as in {dataset.name}: {_numbered(dataset.class_names)}"
    pixels = {} if whole else {"train_images": dataset.images[dataset.split["train"]],
                               "train_labels": dataset.labels_of("train")}
    images, labels = (dataset.images, dataset.labels) if whole else (
        dataset.images[dataset.split["test"]], dataset.labels_of("test"))
    images = images.astype(np.float32) / np.float32(255)
    return Material(images, labels, dataset.class_names, dataset.source, order, dataset.synthetic, **pixels)


def _from_folder(path: Path, shape) -> Material:
    """A folder of <class>/<image>, all of it; or of train/ and test/ with such folders in them, of which test."""
    inner = {entry.name.lower(): entry for entry in path.iterdir() if entry.is_dir()}
    parts = "test" in inner and "train" in inner
    classes = sum(entry.is_dir() for entry in (inner["train"] if parts else path).iterdir())
    # Whichever images the kit would put aside for validation: none is trained on here, so as few as it takes.
    split = {"kind": "given", "validation": classes} if parts else {"validation": classes, "test": classes}
    dataset = data.load(_settings(shape, name="image_folder", path=str(path), split=split), seed=0)
    found = _from_dataset(dataset, whole=not parts)
    order = f"folders in alphabetical order, as Keras and torchvision number them: {_numbered(dataset.class_names)}"
    return dataclasses.replace(found, class_order=order)


def _numbered(names) -> str:
    shown = ", ".join(f"{number} = {name}" for number, name in enumerate(names[:10]))
    return shown + (f", ... ({len(names)} in all)" if len(names) > 10 else "")


def _from_npz(path: Path, classes: int | None, order: tuple[str, ...]) -> Material:
    arrays = read_arrays(path)
    if "about" in arrays:
        return _from_dataset(data.Dataset.load(path), whole=False)
    keys = next((pair for pair in JUDGED if set(pair) <= set(arrays)), None)
    if keys is None:
        raise KitError(f"{path.name} holds {', '.join(arrays) or 'nothing'}: it must hold "
                       f"{' or '.join(f'{x} and {y}' for x, y in JUDGED)}")
    images, labels = (_images(arrays[keys[0]], f"{path.name}, {keys[0]}"), _labels(arrays[keys[1]], path.name))
    if len(images) != len(labels):
        raise KitError(f"{path.name} holds {len(images)} images and {len(labels)} labels")
    names = tuple(map(str, arrays.get("class_names", order or range(classes or 0))))
    if not names:
        raise KitError(f"{path.name} does not say how many classes there are: give their names with --class-order")
    classes = classes or len(names)
    if labels.min() < 0 or labels.max() >= classes:
        raise KitError(f"{path.name}: labels reach from {labels.min()} to {labels.max()}, but the model has {classes} "
                       f"outputs (0 to {classes - 1})")
    train = next((pair for pair in TRAINED if set(pair) <= set(arrays)), None)
    known = {} if train is None else {"train_images": _images(arrays[train[0]], train[0]),
                                      "train_labels": _labels(arrays[train[1]], train[1])}
    return Material(images, labels, names, f"{len(images):,} images in {path.name}",
                    f"labels as in the file: {_numbered(names)}", **known)


def _images(images: np.ndarray, where: str) -> np.ndarray:
    """Images of an .npz as float32 N x H x W x C in [0, 1]; integers count as 0 to 255."""
    images = images[..., None] if images.ndim == 3 else images
    if images.ndim != 4 or 0 in images.shape:
        raise KitError(f"{where}: images must be N x H x W or N x H x W x C, not {images.shape}")
    if images.dtype == np.uint8:
        return images.astype(np.float32) / np.float32(255)
    if not np.issubdtype(images.dtype, np.floating) or not (images.min() >= 0 and images.max() <= 1):
        raise KitError(f"{where}: pixels must be whole numbers of 8 bits (uint8), or floats in [0, 1]; these are "
                       f"{images.dtype} from {images.min():.4g} to {images.max():.4g}")
    return images.astype(np.float32)


def _labels(labels: np.ndarray, where: str) -> np.ndarray:
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise KitError(f"{where}: labels must be one whole number an image, not {labels.dtype} of shape {labels.shape}")
    return labels.astype(np.int32)


def _in_order(found: Material, classes: int | None, order: tuple[str, ...]) -> Material:
    """The material with labels that are positions among the model's outputs."""
    if order:
        unknown = sorted(set(found.class_names) - set(order))
        if unknown or len(set(order)) < len(order):
            raise KitError(f"--class-order must name each class once; it lacks {', '.join(unknown) or 'none'} of the "
                           f"data's")
        place = np.array([order.index(name) for name in found.class_names], np.int32)
        train = None if found.train_labels is None else place[found.train_labels]
        found = dataclasses.replace(found, labels=place[found.labels], train_labels=train, class_names=tuple(order),
                                    class_order=f"as given: {_numbered(order)}")
    if classes is not None and len(found.class_names) != classes:
        raise KitError(f"the model has {classes} outputs, but the data have {len(found.class_names)} classes "
                       f"({_numbered(found.class_names)}); give the model that belongs to them, or all its classes in "
                       f"the "
                       "order of its outputs with --class-order")
    return found
