"""Training a classifier on real, labelled images: the one place that does, for teachers and for real-data baselines."""

from lenient.supervised.keeping import Kept
from lenient.supervised.recipe import TeacherRecipe, default_recipe, lr_factor
from lenient.supervised.training import Epoch, Progress, TrainingResult, train_classifier, untrained

__all__ = [
    "Epoch",
    "Kept",
    "Progress",
    "TeacherRecipe",
    "TrainingResult",
    "default_recipe",
    "lr_factor",
    "train_classifier",
    "untrained",
]
