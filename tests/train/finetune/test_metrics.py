"""Metrics, by hand."""

import math

import numpy as np
import pytest

from train.finetune.metrics import of_classes, of_numbers


def test_metrics_of_two_classes() -> None:
    # Guesses 1 1 1 0 0 of labels 1 1 0 0 1: two true and one false positive, one false negative.
    logits = np.asarray([[0, 1], [0, 2], [0, 1], [1, 0], [1, 0]], np.float32)
    result = of_classes(logits, np.asarray([1, 1, 0, 0, 1]))
    assert result["accuracy"] == pytest.approx(3 / 5)
    assert result["f1"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert result["matthews"] == pytest.approx((2 * 1 - 1 * 1) / math.sqrt(3 * 3 * 2 * 2))
    right, wrong = math.log1p(math.exp(-1)), math.log1p(math.exp(1))
    assert result["eval_loss"] == pytest.approx((2 * right + math.log1p(math.exp(-2)) + 2 * wrong) / 5, rel=1e-7)


def test_f1_of_more_classes_is_the_mean() -> None:
    logits = np.eye(3, dtype=np.float32)[[0, 1, 1, 2]]
    result = of_classes(logits, np.asarray([0, 1, 2, 2]))
    assert result["f1"] == pytest.approx((1 + 2 / 3 + 2 / 3) / 3)


def test_guessing_one_class_has_no_correlation() -> None:
    result = of_classes(np.asarray([[1, 0]] * 4, np.float32), np.asarray([0, 1, 0, 1]))
    assert result == {"eval_loss": pytest.approx(0.8132617, rel=1e-6), "accuracy": 0.5, "f1": 0.0, "matthews": 0.0}


def test_metrics_of_numbers() -> None:
    labels = np.asarray([1.0, 2.0, 3.0, 4.0], np.float32)
    result = of_numbers(np.asarray([1.0, 4.0, 9.0, 16.0], np.float32), labels)
    assert result["eval_loss"] == pytest.approx((0 + 4 + 36 + 144) / 4)
    assert result["spearman"] == pytest.approx(1)
    assert result["pearson"] == pytest.approx(np.corrcoef([1, 4, 9, 16], labels)[0, 1])


def test_a_constant_prediction_has_no_correlation() -> None:
    result = of_numbers(np.ones(3, np.float32), np.asarray([1.0, 2.0, 3.0], np.float32))
    assert (result["pearson"], result["spearman"]) == (0, 0)
