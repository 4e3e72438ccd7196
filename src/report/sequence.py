"""Train tasks in order, and compute Transfer, Avg, Last, forgetting and BWT of the accuracy matrix."""


def run_sequence(order, checkpoint, train_task, evaluate=None):
    """Train the tasks of ``order`` one after the other. -> (rows of scores, row 0 before any training; the last
    checkpoint)

    ``train_task(name, checkpoint) -> (checkpoint, scores)``; ``evaluate(checkpoint) -> scores``; scores are
    {dataset: {label space: Scores}} over the whole order. Without ``evaluate``, row 0 is None.
    """
    rows = [evaluate and evaluate(checkpoint)]
    for name in order:
        checkpoint, scores = train_task(name, checkpoint)
        rows.append(scores)
    return rows, checkpoint


def sequence_metrics(matrix):
    """Compute the summary numbers of an n x n matrix, ``matrix[i][j]`` = accuracy on task j after training task
    i, in percent.

        transfer (Zheng et al., 2023): mean over j >= 1 of the mean over i < j of A[i][j]
        avg: mean of all cells
        last: mean of the last row
        forgetting (Chaudhry et al., 2018): mean over j < n - 1 of max_i A[i][j] - A[n-1][j]
        bwt (Lopez-Paz and Ranzato, 2017): mean over j < n - 1 of A[n-1][j] - A[j][j]

    Numbers that need two tasks are None for one. A cell is None if a task has no score yet (label space "seen",
    above the diagonal): then there is no transfer, and means are over the existing cells.
    """
    n = len(matrix)
    if any(len(row) != n for row in matrix) or n == 0:
        raise ValueError(f"the accuracy matrix must be square, not {n} rows of {sorted({len(row) for row in matrix})}")
    last = matrix[-1]
    several = n > 1
    known = [value for row in matrix for value in row if value is not None]
    unseen = len(known) < n * n
    return {
        "transfer": None if unseen or not several else _mean(
            _mean(matrix[i][j] for i in range(j)) for j in range(1, n)),
        "avg": _mean(known),
        "last": _mean(last),
        "forgetting": _mean(max(row[j] for row in matrix if row[j] is not None) - last[j]
                            for j in range(n - 1)) if several else None,
        "bwt": _mean(last[j] - matrix[j][j] for j in range(n - 1)) if several else None,
    }


def dataset_numbers(names, matrix):
    """Return {(number, dataset): value} of an n x n matrix: each column's part of Transfer, Avg and Last, their
    means.

    transfer: mean over i < j of A[i][j], None for the first task; avg: mean of the column; last: A[n-1][j].
    Means are over the existing cells, and there is no Transfer if one is missing.
    """
    found = {}
    for column, name in enumerate(names):
        cells = [row[column] for row in matrix]
        known, before = [value for value in cells if value is not None], cells[:column]
        found["transfer", name] = _mean(before) if before and None not in before else None
        found["avg", name] = _mean(known) if known else None
        found["last", name] = cells[-1]
    return found


def incremental_accuracy(rows):
    """Compute the accuracy after each step over all images of the classes seen so far, in percent.

    Returns {"incremental_steps": [...], "incremental_avg": their mean, "incremental_last"}. ``rows``:
    [{dataset: Scores, None if not seen yet}], one after each task. Every image counts the same, whatever the
    sizes of the tasks, while Avg and Last are means over tasks.
    """
    steps = []
    for row in rows:
        seen = [scores for scores in row.values() if scores is not None]
        steps.append(sum(scores.top1 * scores.n for scores in seen) / sum(scores.n for scores in seen))
    return {"incremental_steps": steps, "incremental_avg": _mean(steps), "incremental_last": steps[-1]}


def _mean(values):
    values = list(values)
    return sum(values) / len(values)


def summarise_retrieval(trained, rows, label_space, precision):
    """Return the content of ``summary.json`` for a sequence over image-text pairs.

    ``rows``: [{dataset: RetrievalScores}], row 0 zero-shot, or None if unknown. ``trained``: the tasks or
    phases of the other rows.
    """
    rows = [row and {name: scores.summary() for name, scores in row.items()} for row in rows]
    last = rows[-1]
    return {"trained": list(trained), "datasets": list(last), "rows": rows, "label_space": label_space,
            "mean_rsum": _mean(scores["rsum"] for scores in last.values()), "precision": precision,
            "forgetting_r1": {name: max(row[name]["i2t_r1"] for row in rows[1:]) - last[name]["i2t_r1"]
                              for name in last}}


def summarise(order, rows, label_space, precision):
    """Return the content of ``summary.json``. ``rows``: [{dataset: Scores or None}], row 0 zero-shot, or None
    if unknown."""
    scored = [row and {name: row[name] for name in order} for row in rows]
    zero_shot, *matrix = [row and {name: scores and scores.top1 for name, scores in row.items()} for row in scored]
    matrix = [list(row.values()) for row in matrix]
    incremental = incremental_accuracy(scored[1:]) if label_space == "seen" else {}
    return {**sequence_metrics(matrix), **incremental, "zero_shot": zero_shot, "datasets": list(order),
            "matrix": matrix, "label_space": label_space, "precision": precision}
