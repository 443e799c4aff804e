"""Drawn slices that look like chest CT, to run paper B's pipeline where the real data are missing. Not medical data."""
from __future__ import annotations

import numpy as np

CLASSES = ("healthy", "nodule", "mass")
SLICES = 6  # of each patient
AIR, LUNG, FAT, SOFT, BLOOD, BONE = 0.02, 0.13, 0.36, 0.52, 0.60, 0.92  # grey values in a window wide enough for all


def draw(count: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`count` slices: images (uint8, count x size x size x 1), labels (int32), patient numbers (int32).

    Classes take turns by patient, so they are equally large but for one patient's slices. A patient's slices
    follow each other and are alike, as in the real data: a random split tears them apart.
    """
    patients = -(-count // SLICES)
    rngs = [np.random.default_rng([seed, patient]) for patient in range(patients)]
    images = [image for patient, rng in enumerate(rngs) for image in _patient(patient % len(CLASSES), size, rng)]
    numbers = np.repeat(np.arange(patients, dtype=np.int32), SLICES)[:count]
    return np.stack(images)[:count, ..., None], (numbers % len(CLASSES)).astype(np.int32), numbers


def _patient(label: int, size: int, rng: np.random.Generator) -> list[np.ndarray]:
    body = _anatomy(rng)
    lesion = _lesion(label, body, rng)
    heights = np.linspace(-1, 1, SLICES) * rng.uniform(0.5, 1.0)
    return [_slice(body, lesion, height, size, rng) for height in heights]


def _anatomy(rng) -> dict:
    """One person. Lengths are in units of half the picture's width, the origin is its centre."""
    lungs = [{"x": side * rng.uniform(0.38, 0.44), "y": rng.uniform(-0.06, 0.04), "a": rng.uniform(0.25, 0.31),
             "b": rng.uniform(0.40, 0.50), "tilt": side * rng.uniform(0.05, 0.25)} for side in (-1, 1)]
    vessels = [{"lung": rng.integers(2), "distance": rng.uniform(0.05, 0.88) ** 0.7, "angle": rng.uniform(0, 2 * np.pi),
                "radius": rng.uniform(0.010, 0.026), "length": rng.choice([1.0, rng.uniform(1.5, 4.0)]),
                "turn": rng.uniform(0, np.pi), "drift": rng.normal(0, 0.10, 2)} for _ in range(rng.integers(8, 18))]
    return {"a": rng.uniform(0.84, 0.95), "b": rng.uniform(0.66, 0.78), "fat": rng.uniform(0.03, 0.09), "lungs": lungs,
            "vessels": vessels, "heart": rng.uniform(0.16, 0.24), "shift": rng.normal(0, 0.03, 2),
            "bright": rng.normal(1, 0.05), "noise": rng.uniform(0.025, 0.055), "ribs": rng.uniform(0, 1)}


def _lesion(label: int, body: dict, rng) -> dict | None:
    """Nothing, a small smooth nodule, or a large mass with an irregular edge, somewhere in a lung."""
    if label == 0:
        return None
    place = {"lung": rng.integers(2), "distance": rng.uniform(0.1, 0.72), "angle": rng.uniform(0, 2 * np.pi)}
    if label == 1:
        return place | {"radius": rng.uniform(0.05, 0.11), "grey": rng.uniform(0.54, 0.78), "waves": np.zeros((0, 3))}
    waves = [(k, rng.uniform(0.05, 0.25) / k**0.5, rng.uniform(0, 2 * np.pi)) for k in range(2, 9)]
    return place | {"radius": rng.uniform(0.12, 0.25), "grey": rng.uniform(0.54, 0.76), "waves": np.array(waves)}


def _slice(body, lesion, height, size, rng) -> np.ndarray:
    canvas = _Canvas(size, body["shift"])
    canvas.ellipse(0, 0, body["a"], body["b"], FAT)
    canvas.ellipse(0, 0, body["a"] - body["fat"], body["b"] - body["fat"], SOFT)
    shrink = 1 - 0.16 * height**2
    for lung in body["lungs"]:
        canvas.ellipse(lung["x"], lung["y"], lung["a"] * shrink, lung["b"] * shrink, LUNG, lung["tilt"])
    canvas.ellipse(0.06, -0.12 + 0.05 * height, body["heart"], body["heart"] * 1.15, BLOOD)
    _bones(canvas, body, height)
    for vessel in body["vessels"]:
        _vessel(canvas, body, vessel, height, shrink)
    if lesion:
        _draw_lesion(canvas, body, lesion, height, shrink)
    image = canvas.image * body["bright"] + _grain(size, body["noise"], rng)
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


class _Canvas:
    """A picture to lay shapes on; only the window around a shape is worked on."""

    def __init__(self, size: int, shift):
        self.image = np.full((size, size), AIR, np.float32)
        axis = ((np.arange(size) + 0.5) * (2 / size) - 1).astype(np.float32)
        self.x, self.y = axis - np.float32(shift[0]), axis - np.float32(shift[1])
        self.fade = 1.3 / size  # about half a pixel, over which edges fade

    def ellipse(self, left, top, a, b, grey, tilt=0.0) -> None:
        window, x, y = self._window(left, top, max(a, b))
        cos, sin = np.float32(np.cos(tilt)), np.float32(np.sin(tilt))
        distance = (np.hypot((x * cos + y * sin) / np.float32(a), (y * cos - x * sin) / np.float32(b)) - 1) * min(a, b)
        self._lay(window, distance, grey)

    def star(self, left, top, radius, waves, grey) -> None:
        """A disc whose radius has waves (number, share of the radius, phase) along its edge."""
        window, x, y = self._window(left, top, 2 * radius)
        angle = np.arctan2(y, x)
        edge = radius * (1 + sum(share * np.sin(number * angle + phase) for number, share, phase in waves))
        self._lay(window, np.hypot(x, y) - edge, grey)

    def _window(self, left, top, reach):
        reach += 6 * self.fade
        columns = slice(*np.searchsorted(self.x, [left - reach, left + reach]))
        rows = slice(*np.searchsorted(self.y, [top - reach, top + reach]))
        return (rows, columns), self.x[None, columns] - np.float32(left), self.y[rows, None] - np.float32(top)

    def _lay(self, window, distance, grey):
        cover = 1 / (1 + np.exp(np.clip(distance * (2 / self.fade), -30, 30)))
        self.image[window] += cover * (grey - self.image[window])


def _bones(canvas, body, height):
    canvas.ellipse(0, 0.42, 0.10, 0.085, BONE)
    canvas.ellipse(0, 0.53, 0.045, 0.07, BONE * 0.9)
    canvas.ellipse(0.02, 0.40, 0.035, 0.03, SOFT)
    canvas.ellipse(0, -body["b"] * 0.82, 0.09, 0.03, BONE * 0.85)
    for number in range(10):
        angle = 2 * np.pi * (number + body["ribs"] + 0.25 * height) / 10
        left, top = 0.87 * body["a"] * np.cos(angle), 0.87 * body["b"] * np.sin(angle)
        canvas.ellipse(left, top, 0.075, 0.022, BONE * 0.8, angle + np.pi / 2)


def _in_lung(lung, distance, angle, shrink):
    """A point at a share of the way from the lung's centre to its edge."""
    u, v = distance * shrink * lung["a"] * np.cos(angle), distance * shrink * lung["b"] * np.sin(angle)
    tilt = lung["tilt"]
    return lung["x"] + u * np.cos(tilt) - v * np.sin(tilt), lung["y"] + v * np.cos(tilt) + u * np.sin(tilt)


def _vessel(canvas, body, vessel, height, shrink):
    left, top = _in_lung(body["lungs"][vessel["lung"]], vessel["distance"] * 0.9, vessel["angle"], shrink)
    left, top = left + vessel["drift"][0] * height * 0.3, top + vessel["drift"][1] * height * 0.3
    radius = vessel["radius"] * (1 + 0.3 * height * np.sign(vessel["drift"][0]))
    canvas.ellipse(left, top, radius * vessel["length"], radius, SOFT * 0.9, vessel["turn"])


def _draw_lesion(canvas, body, lesion, height, shrink):
    left, top = _in_lung(body["lungs"][lesion["lung"]], lesion["distance"], lesion["angle"], shrink)
    canvas.star(left, top, lesion["radius"] * np.sqrt(1 - 0.35 * height**2), lesion["waves"], lesion["grey"])


def _grain(size, strength, rng):
    """Noise that is alike from pixel to pixel, as reconstruction leaves it."""
    noise = rng.normal(0, 1, (size + 1, size + 1))
    return strength * 0.7 * (noise[1:, 1:] + 0.7 * noise[:-1, 1:] + 0.7 * noise[1:, :-1])
