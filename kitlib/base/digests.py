"""Short names for what something is made of: arrays and settings."""
from __future__ import annotations

import hashlib
import json

import numpy as np


def of_arrays(arrays) -> str:
    """sha256 over the types, shapes and contents of NumPy arrays, in their order."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def of_json(content) -> str:
    """sha256 over what goes into JSON, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
