"""Data sets for the lessons, and readers for the files that researchers have."""

from .readers import Table, read_csv, read_idx, read_npz
from .sets import Dataset, load

__all__ = ["Dataset", "Table", "load", "read_csv", "read_idx", "read_npz"]
