"""Adversarial images as files: PNGs that still fool the model when they are read back."""
from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image

from kitlib.audit.measure import Measurements
from kitlib.base.files import atomic_folder, check_folder
from kitlib.base.settings import KitError

CHANNELS = (1, 3, 4)    # of which a PNG is made


def check(folder: Path, channels: int, record: Path) -> None:
    """Raises KitError where `save` could not write there, or would replace the folder `record`, before any time is
    spent."""
    images, record = Path(folder).resolve(), Path(record).resolve()
    if images == record or images in record.parents or record in images.parents:
        raise KitError(f"--save-images: {images} and {record}, where the record is written, must lie apart, as each "
                       "is replaced as a whole")
    if channels not in CHANNELS:
        raise KitError(f"--save-images: a PNG has 1, 3 or 4 channels, and the model takes {channels}")
    check_folder(folder, may_hold=set())


def save(m: Measurements, folder: Path) -> tuple[int, int]:
    """Write <true class>/<number>_as_<answer>.png for each rightly classified image that PGD in 8 bits turns.

    Every file is read back, as Keras decodes it, and kept only if it fools the model then. Returns how many are kept,
    and of how many images that are right without attack.
    """
    rows, names = np.flatnonzero(m.clean), _file_names(m.subject.class_names)
    found = m.run_attack(m.eight_bit_attack, m.model, m.images[rows], m.labels[rows])
    kept = 0
    with atomic_folder(folder) as whole:
        for row, image in zip(rows[found.fooled], found.kept_images[found.fooled], strict=True):
            path = whole / names[m.labels[row]] / f"{row}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(np.round(255 * image).astype(np.uint8).squeeze()).save(path)
            back = tf.image.decode_image(path.read_bytes(), channels=image.shape[-1], expand_animations=False)
            answer = int(m.answers(back.numpy()[None].astype(np.float32) / 255)[0])
            if answer == m.labels[row]:
                path.unlink()
            else:
                kept += 1
                path.rename(path.with_name(f"{row}_as_{names[answer]}.png"))
    return kept, len(rows)


def _file_names(class_names) -> list[str]:
    """The classes as names of folders; with their number where they would be alike."""
    names = [re.sub(r"[^\w .-]", "_", str(name)).strip(" .") for name in class_names]
    alike = len(set(map(str.casefold, names))) < len(names) or not all(names)
    return [f"{number}_{name}" for number, name in enumerate(names)] if alike else names
