"""Measures of a classifier: how often it is right, how sure, how much like its teacher, how fast and how large."""

from lenient.evaluation.cost import latency, num_bytes
from lenient.evaluation.measures import Measures, accuracy, agreement, evaluate
from lenient.evaluation.running import classifier_of, in_eval_mode
from lenient.evaluation.statistics import MEASURED_BY, reestimate
from lenient.models.card import parameters

__all__ = [
    "MEASURED_BY",
    "Measures",
    "accuracy",
    "agreement",
    "classifier_of",
    "evaluate",
    "in_eval_mode",
    "latency",
    "num_bytes",
    "parameters",
    "reestimate",
]
