"""Tasks in order -> accuracy matrix -> Transfer, Avg, Last, forgetting, BWT."""


def run_sequence(order, checkpoint, train_task, evaluate):
    """Train ``order`` one after the other. -> (rows of scores, row 0 before any training; the last checkpoint).

    ``train_task(name, checkpoint) -> (checkpoint, scores)``; ``evaluate(checkpoint) -> scores``; scores are
    {dataset: Scores} over the whole order.
    """
    rows = [evaluate(checkpoint)]
    for name in order:
        checkpoint, scores = train_task(name, checkpoint)
        rows.append(scores)
    return rows, checkpoint


def sequence_metrics(matrix):
    """Summary numbers of an n x n matrix, ``matrix[i][j]`` = accuracy on task j after training task i, in percent.

    transfer (Zheng et al., 2023): mean over j >= 1 of the mean over i < j of A[i][j];  avg: mean of all cells;
    last: mean of the last row;  forgetting (Chaudhry et al., 2018): mean over j < n - 1 of max_i A[i][j] - A[n-1][j];
    bwt (Lopez-Paz and Ranzato, 2017): mean over j < n - 1 of A[n-1][j] - A[j][j].
    Those that need two tasks are None for one.
    """
    n = len(matrix)
    if any(len(row) != n for row in matrix) or n == 0:
        raise ValueError(f"the accuracy matrix must be square, not {n} rows of {sorted({len(row) for row in matrix})}")
    last = matrix[-1]
    several = n > 1
    return {
        "transfer": _mean(_mean(matrix[i][j] for i in range(j)) for j in range(1, n)) if several else None,
        "avg": _mean(value for row in matrix for value in row),
        "last": _mean(last),
        "forgetting": _mean(max(row[j] for row in matrix) - last[j] for j in range(n - 1)) if several else None,
        "bwt": _mean(last[j] - matrix[j][j] for j in range(n - 1)) if several else None,
    }


def _mean(values):
    values = list(values)
    return sum(values) / len(values)


def summarise(order, rows, label_space, precision):
    """What ``summary.json`` holds. ``rows``: scores of run_sequence, row 0 zero-shot."""
    top1 = [[row[name].top1 for name in order] for row in rows]
    return {**sequence_metrics(top1[1:]), "zero_shot": dict(zip(order, top1[0], strict=True)),
            "datasets": list(order), "matrix": top1[1:], "label_space": label_space, "precision": precision}
