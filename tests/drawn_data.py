"""Files laid out as the published data sets are, with drawn pictures in them."""
import numpy as np
from PIL import Image


def lung_folder(root, nested=1, counts=(12, 30, 21)):
    """The folder of the IQ-OTH/NCCD slices with so many of each class; three look-alike slices a patient."""
    home = root.joinpath(*["The IQ-OTHNCCD lung cancer dataset"] * nested)
    rng = np.random.default_rng(0)
    for name, count in zip(("Bengin", "Malignant", "Normal"), counts, strict=True):
        (home / f"{name} cases").mkdir(parents=True)
        for number in range(1, count + 1):
            if number % 3 == 1:
                patient = rng.integers(0, 256, (30, 40)).astype(np.float32)
            slice_ = np.clip(patient + rng.normal(0, 10, patient.shape), 0, 255).astype(np.uint8)
            Image.fromarray(slice_).save(home / f"{name} cases" / f"{name} case ({number}).jpg", quality=95)
    (home / "IQ-OTH_NCCD lung cancer dataset.txt").write_text("1190 images")
    return home
