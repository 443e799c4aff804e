"""kitlib: what the notebooks of the reproduction kit share.

Words used throughout: *pixels* are float32, N x H x W x C, in [0, 1]; a *model* takes
pixels and returns *logits*; every *epsilon* is in pixels and written n/255.
"""
import os

# TensorFlow uses oneDNN's kernels of itself only on CPUs with AVX512-VNNI or AMX; on others they are faster
# too (training about 1.5 times on AMD Zen 3). It reads this when it is imported, so import kitlib before it.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
