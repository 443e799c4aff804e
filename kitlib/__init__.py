"""kitlib: what the notebooks of the reproduction kit share.

Words used throughout: *pixels* are float32, N x H x W x C, in [0, 1]; a *model* takes
pixels and returns *logits*; every *epsilon* is in pixels and written n/255.

Import kitlib before TensorFlow and Keras: it sets what TensorFlow reads only once.
"""
import contextlib
import ctypes
import os
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4       # of glibc's mallopt, see malloc.h


def _keep_freed_memory() -> None:
    """Let glibc's malloc keep the large blocks that are freed, for the next ones.

    By default it hands each back to the system, which clears it page by page when it is asked for again: with tensors
    of some megabytes, made and freed in every step, that can take as long as the arithmetic (`python -m
    benchmarks.training allocator`). Where MALLOC_... variables or another allocator are set, those rule.
    """
    if not sys.platform.startswith("linux") or any(name.startswith("MALLOC_") for name in os.environ):
        return
    with contextlib.suppress(AttributeError, OSError):      # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_TOP_PAD, 64 * 2**20)


def _import_tensorflow_quietly() -> None:
    """TensorFlow's libraries write a page of notices to the terminal before Python can stop them."""
    terminal = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        import tensorflow

        tensorflow.config.list_physical_devices("GPU")  # says once more that there is none
        # Else GPUs from Ampere on multiply with 10 bits of mantissa where float32 is asked for.
        tensorflow.config.experimental.enable_tensor_float_32_execution(False)
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
        os.close(nowhere)


# TensorFlow uses oneDNN's kernels of itself only on CPUs with AVX512-VNNI or AMX; on others they are faster
# too (training about 1.5 times on AMD Zen 3).
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Of itself TensorFlow takes a GPU's whole memory at once, and a batch runs several notebooks side by side.
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
_keep_freed_memory()
_import_tensorflow_quietly()
