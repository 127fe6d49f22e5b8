"""How good predictions of labels are."""

import numpy as np
import scipy.special
import scipy.stats
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef


def of_classes(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return the mean cross-entropy, accuracy, F1 and Matthews' correlation.

    F1 is that of the second class if there are two, as on GLUE, and else the mean over classes.
    Where all labels and guesses are equal, there is no correlation: it is 0.

    Args:
      logits: (N, C).
      labels: (N,), from 0 to C - 1.
    """
    logits = logits.astype(np.float64)
    log_p = scipy.special.log_softmax(logits, axis=1)
    guesses, classes = logits.argmax(1), logits.shape[1]
    average = "binary" if classes == 2 else "macro"
    varies = len(np.union1d(labels, guesses)) > 1
    return {
        "eval_loss": float(-log_p[np.arange(len(labels)), labels].mean()),
        "accuracy": float(accuracy_score(labels, guesses)),
        "f1": float(f1_score(labels, guesses, average=average, zero_division=0)),
        "matthews": float(matthews_corrcoef(labels, guesses)) if varies else 0.0,
    }


def of_numbers(predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return the mean squared error, and Pearson's and Spearman's correlation.

    A correlation with predictions that are all equal is 0.

    Args:
      predictions: (N,).
      labels: (N,).
    """
    predictions = predictions.astype(np.float64)
    varies = np.ptp(predictions) > 0 and np.ptp(labels) > 0
    return {
        "eval_loss": float(np.mean((predictions - labels) ** 2)),
        "pearson": float(scipy.stats.pearsonr(predictions, labels).statistic) if varies else 0.0,
        "spearman": float(scipy.stats.spearmanr(predictions, labels).statistic) if varies else 0.0,
    }
