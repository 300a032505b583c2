"""Choosing among answers: scorers, rules, curves over n from one set of samples, and training rows from what was chosen."""

from fulgurite.evaluation.selection.curves import best_of_n, kl_bound
from fulgurite.evaluation.selection.log_probs import answer_log_probs
from fulgurite.evaluation.selection.rules import select_answers, weighted

__all__ = ["answer_log_probs", "best_of_n", "kl_bound", "select_answers", "weighted"]
