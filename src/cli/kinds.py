"""Name the kinds of runs, and groups of them. A flag given to a kind where it does not act draws a warning."""

TRAIN, SEQUENCE, EVAL, SINGLE, REPORT = "training", "sequence", "evaluation", "single-image", "report"
LIST, CHECK, EXPORT, STUDY, RESCORE = "listing", "checking", "model-export", "study", "rescoring"
REPRODUCE, FETCH = "reproduction", "fetching"
TRAINING = (TRAIN, SEQUENCE)
SCORING = (TRAIN, SEQUENCE, EVAL)
MODEL = (TRAIN, SEQUENCE, EVAL, SINGLE)
WEIGHTS = (*MODEL, EXPORT)
EXPORTING = (*SCORING, EXPORT)


def a_run(kind):
    """Return a kind with its article: "an evaluation run"."""
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind} run"
