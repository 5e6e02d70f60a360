"""Real labelled images, for training teachers and for measuring; distillation itself never imports this room."""

from lenient.data.augment import AUGMENTS
from lenient.data.images import ImageSet
from lenient.data.loading import DATA_NAMES, SPLITS, load_data

__all__ = ["AUGMENTS", "DATA_NAMES", "SPLITS", "ImageSet", "load_data"]
