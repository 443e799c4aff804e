"""Data sets, each read into one `Dataset`: pictures, labels, a split, and where they came from.

    dataset = data.load(data.DataSettings.read({"name": "cifar10"}, "mine"), seed=0)
    images, labels = dataset.part("test", 1000)        # float32 in [0, 1], N x H x W x C; int N

Read first: dataset.py, then sources.py (one reader a data set; `_iq_othnccd` lists the lung slices). Pictures in
folders: folders.py (which files, which classes), decoding.py (one file to pixels), pictures.py (resized as Keras does,
or as torchvision does, which paper B used). splits.py; similarity.py (copies and look-alikes); phantom.py (drawn
slices); download.py; state.py (have the files changed?).
"""
from kitlib.base.places import data_folder
from kitlib.data.dataset import Dataset
from kitlib.data.settings import DataSettings, Limits, SplitSettings
from kitlib.data.sources import load

__all__ = ["DataSettings", "Dataset", "Limits", "SplitSettings", "data_folder", "load"]
