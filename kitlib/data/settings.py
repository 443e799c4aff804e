"""What an experiment may say about its data, and where data sets lie."""
from __future__ import annotations

from typing import Annotated, Any, Literal

import pydantic

from kitlib.base.settings import Settings, choose
from kitlib.data.decoding import Window
from kitlib.data.pictures import Form, Interpolation, Loading, Way

PARTS = ("train", "validation", "test")

# What each data set takes for a setting that the user leaves out.
DEFAULTS: dict[str, dict[str, Any]] = {
    "digits": {"size": 32, "channels": 1, "split": {"kind": "random"}},
    "phantom_ct": {"size": 64, "channels": 1, "split": {"kind": "random"}, "count": 600},
    "cifar10": {"size": 32, "channels": 3, "split": {"kind": "given", "validation": 0.1}},
    "iq_othnccd": {"size": 224, "channels": 3, "split": {"kind": "random"}},
    "image_folder": {"size": 64, "channels": 3, "split": {"kind": "random"}},
}
# Settings that only some data sets have.
OPTIONS = {
    "count": ("phantom_ct",),
    "path": ("image_folder",),
    "resize": ("iq_othnccd", "image_folder"),
    "download": ("cifar10", "iq_othnccd"),
    "pictures": ("image_folder",),
    "interpolation": ("image_folder",),
    "window": ("image_folder",),
}
KINDS = {
    "given": ("cifar10", "image_folder"),
    "grouped": ("phantom_ct", "iq_othnccd", "image_folder"),
    "random": tuple(DEFAULTS),
}


def _share(value: Any) -> int | float:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    if isinstance(value, float) and 0 < value < 1:
        return value
    raise ValueError("must be a fraction between 0 and 1 or a whole number of images")


Share = Annotated[int | float, pydantic.PlainValidator(_share)]


class SplitSettings(Settings):
    """How images are shared out to train, validation and test.

    kind: `given` keeps the data set's own parts (a missing validation part is drawn from its
    train part); `random` draws stratified parts from all images, with exact counts; `grouped`
    does so with whole groups (slices of a patient, near-duplicates), so counts come close only.
    validation, test: a fraction of all images (of the train part where `given`) or a number of
    images. `test` is None where `given`.
    """

    kind: Literal["given", "random", "grouped"] = "random"
    validation: Share = 0.15
    test: Share | None = None

    @pydantic.model_validator(mode="before")
    @classmethod
    def _usual_test_part(cls, values):
        if isinstance(values, dict) and values.get("kind", "random") != "given":
            values = {"test": 0.15} | values
        return values

    @pydantic.model_validator(mode="after")
    def _possible(self):
        if self.kind == "given" and self.test is not None:
            raise ValueError("'test' cannot be set where the kind is 'given': the data set has its own")
        if self.kind != "given" and self.test is None:
            raise ValueError("'test' must be a fraction or a number of images")
        if isinstance(self.test, float) and isinstance(self.validation, float) and self.test + self.validation >= 1:
            raise ValueError("validation and test leave nothing to train on")
        return self


class Limits(Settings):
    """At most so many images of each part, chosen stratified; None takes all."""

    train: int | None = pydantic.Field(None, ge=2)
    validation: int | None = pydantic.Field(None, ge=2)
    test: int | None = pydantic.Field(None, ge=2)


class DataSettings(Settings):
    """One data set, prepared.

    size: width and height in pixels. channels: 1 (grey) or 3 (grey is repeated).
    count: images that `phantom_ct` draws. path: folder of `image_folder`, from the data folder.
    resize: `iq_othnccd`, `image_folder`: length of the shorter side in pixels before the centre is
    cropped to `size`; left out it is size * 256 / 224 for `iq_othnccd` (paper B), and `image_folder` is not cropped.
    download: `cifar10`, `iq_othnccd`: fetch the data where they are missing.
    pictures, interpolation, window: of `image_folder`, see `kitlib.data.pictures.Loading`; left out, pictures are
    loaded as Keras does, or with `resize` as `iq_othnccd` is.
    """

    name: str
    size: int = pydantic.Field(ge=8, le=1024)
    channels: Literal[1, 3]
    split: SplitSettings
    limits: Limits = Limits()
    count: int | None = pydantic.Field(None, ge=30, le=100_000)
    path: str | None = None
    resize: int | None = pydantic.Field(None, le=2048)
    download: bool = False
    pictures: Way | None = None
    interpolation: Interpolation | None = None
    window: Window | None = None

    @pydantic.model_validator(mode="before")
    @classmethod
    def _usual_values(cls, values):
        if not isinstance(values, dict) or not isinstance(values.get("name"), str):
            return values
        usual = choose(values["name"], DEFAULTS, "data set")
        split = values.get("split", {})
        if isinstance(split, dict):
            own = usual["split"] if split.get("kind", usual["split"]["kind"]) == usual["split"]["kind"] else {}
            values = values | {"split": own | split}
        return usual | values

    @pydantic.model_validator(mode="after")
    def _possible(self):
        for option, owners in OPTIONS.items():
            if getattr(self, option) and self.name not in owners:
                raise ValueError(f"'{option}' is a setting of {' and '.join(owners)}, not of {self.name}")
        if self.name not in KINDS[self.split.kind]:
            raise ValueError(f"{self.name} has no '{self.split.kind}' split: "
                             f"use {' or '.join(kind for kind in KINDS if self.name in KINDS[kind])}")
        if self.name == "phantom_ct" and self.count is None:
            raise ValueError("phantom_ct needs 'count', the number of slices to draw")
        if self.name == "image_folder" and not self.path:
            raise ValueError("image_folder needs 'path', the folder that holds <class>/<image>")
        if self.resize is not None and self.resize < self.size:
            raise ValueError(f"'resize' ({self.resize}) must be at least 'size' ({self.size})")
        self.form()     # what it refuses is a ValueError, too
        return self

    @property
    def grey(self) -> bool:
        """Whether the data set's own pictures are, which `channels: 3` shows three times."""
        return self.name in ("digits", "iq_othnccd", "phantom_ct")

    def form(self, channels: int | None = None) -> Form:
        """What picture files are brought to. Raises KitError for options that do not go together."""
        resize = self.resize
        if self.name == "iq_othnccd":
            resize = resize or round(self.size * 256 / 224)
        way = self.pictures or ("resize-and-crop" if resize else "keras")
        loading = Loading(way, self.interpolation or "bilinear", resize, self.window)
        return Form(self.size, self.size, channels or self.channels, loading)
