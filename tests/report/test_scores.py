"""What a sequence has to show, taken from its files."""

from report_files import write_pairs_run, write_run

from src.report.runs import read_run
from src.report.scores import curves, loss_terms, mean_of, scale_of, term_title, trains


def test_what_is_drawn(tmp_path):
    run = read_run(write_run(tmp_path / "run"))
    assert curves(run, "task")["B"] == ({"top-1": [20.0, 50.0, 90.0, 65.0]}, [2])
    terms = loss_terms(run)
    assert list(terms) == ["task", "lr"] and terms["lr"] == [[(10, 1e-5), (30, 0.0)]] * 3
    assert scale_of({"": [12.0, None], "A": [99.0, 50.0]}) == (10, 100)
    assert scale_of({"A": [100.0]}) == (100, 110) and scale_of({"A": [None]}) == (0, 100)
    pairs = read_run(write_pairs_run(tmp_path / "pairs"))
    series, trained = curves(pairs, "retrieval")["p"]
    assert series == {"image to text": [30.0, 40.0, 50.0], "text to image": [15.0, 20.0, 25.0]} and trained == [1, 2]


def test_a_sequence_without_a_start_has_curves_without_one(tmp_path):
    run = read_run(write_run(tmp_path / "run", zero_shot=None))
    assert curves(run, "task")["C"] == ({"top-1": [None, 40.0, 10.0, 95.0]}, [3])


def test_a_phase_trains_its_dataset():
    assert trains("toy-pairs-new_phase2", "toy-pairs-new") and trains("DTD", "DTD")
    assert not trains("", "") and not trains("DTD", "DTD2") and not trains("a_phase", "a")


def test_means_are_of_what_is_known():
    assert mean_of([1.0, None, 4.0]) == 2.5 and mean_of([None]) is None


def test_distillation_of_an_older_log_is_called_what_it_is():
    assert term_title("image_distillation") == "image_distillation, cross-entropy"
    assert [term_title(term) for term in ("image_kl", "task", "lr")] == ["image_kl", "task", "lr"]
