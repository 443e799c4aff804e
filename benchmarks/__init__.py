"""The benchmarks, run as `python -m benchmarks.NAME`; TensorFlow is started the kit's way before any of them."""
import kitlib

kitlib.prepare()
