"""kitlib: what the notebooks of the reproduction kit share.

Words used throughout: *pixels* are float32, N x H x W x C, in [0, 1]; a *model* takes
pixels and returns *logits*; every *epsilon* is in pixels and written n/255.
"""
