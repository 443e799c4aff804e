"""Data sets, each read into one `Dataset`: pictures, labels, a split, and where they came from."""
from kitlib.base.places import data_folder
from kitlib.data.dataset import Dataset
from kitlib.data.settings import DataSettings, Limits, SplitSettings
from kitlib.data.sources import load

__all__ = ["DataSettings", "Dataset", "Limits", "SplitSettings", "data_folder", "load"]
