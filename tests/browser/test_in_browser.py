"""report.html of a toy sequence in a real browser without a network: nothing is asked for, nothing complained about,
all is seen, in light and dark, on a wide and a narrow screen."""

import io

import chromium
import debian_packages
import pytest
from PIL import Image
from report_files import MATRIX, write_pairs_run, write_run

from src.main import main
from src.report.colours import luminance
from src.report.orders import report_of
from src.report.page import write_page
from src.report.runs import read_run
from src.report.study_page import study_page

ORDER = "toy-colours,toy-sizes,toy-digits"
SEEN = """(selector) => [...document.querySelectorAll(selector)].filter(element => {
    const box = element.getBoundingClientRect();
    return box.width > 0 && box.height > 0 && element.checkVisibility({visibilityProperty: true}); }).length"""


@pytest.fixture(scope="session")
def pipe():
    try:
        with chromium.browser() as found:
            yield found
    except debian_packages.Unavailable as error:
        pytest.skip(f"no Chromium here: {error}")


@pytest.fixture(scope="session")
def reports(tmp_path_factory):
    """{kind: report.html} of a sequence over classes, scored in three label spaces, of one over pairs, and of a
    study."""
    root = tmp_path_factory.mktemp("runs")
    words = ["--model", "toy", "--dataset-order", ORDER, "--method", "lwf", "--label-space", "task,seen,all",
             "--iterations", "12", "--log-interval", "2", "--batch-size", "8", "--max-evaluation-size", "24", "--quiet"]
    assert main([*words, "--save", str(root / "classes")]) == 0
    pairs = write_pairs_run(root / "pairs")
    write_page(read_run(pairs), pairs / "report.html")
    return {"classes": root / "classes" / "report.html", "pairs": pairs / "report.html",
            "study": write_study(root / "study")}


def write_study(folder):
    """study.html of two methods with two seeds each, and a cell that is missing."""
    runs = [read_run(write_run(folder / f"{method}-{seed}", f"--method {method} --seed {seed}",
                               matrix=[[value - 2 * seed for value in row] for row in MATRIX]))
            for method in ("finetune", "lwf") for seed in (1, 2)]
    (folder / "study.html").write_text(study_page(report_of("study", runs), [("lwf-3", "failed", "error: no memory")]),
                                       encoding="utf-8")
    return folder / "study.html"


@pytest.fixture
def opened(pipe, reports):
    """opened(kind, width, scheme) -> a Page"""
    pages = []

    def open_page(kind, width=1400, scheme="light"):
        pages.append(chromium.Page(pipe, reports[kind], width, scheme))
        return pages[-1]
    yield open_page
    for page in pages:
        page.close()


def seen(page, selector):
    """How many elements of a selector have a place on the page."""
    return page.ask(f"({SEEN})({selector!r})")


def drawn(page, selector):
    """How many paths of a selector are longer than a dot."""
    return page.ask(f"[...document.querySelectorAll({selector!r})].filter(path => path.getTotalLength() > 5).length")


def colour(page, selector, name="backgroundColor"):
    """#rrggbb"""
    text = page.ask(f"getComputedStyle(document.querySelector({selector!r})).{name}")
    return "#" + "".join(f"{int(part):02x}" for part in text.removeprefix("rgb(").removesuffix(")").split(","))


@pytest.mark.parametrize("kind", ["classes", "pairs", "study"])
@pytest.mark.parametrize("scheme", chromium.SCHEMES)
@pytest.mark.parametrize("width", chromium.WIDTHS)
def test_it_stands_alone_and_fits(opened, reports, kind, width, scheme):
    page = opened(kind, width, scheme)
    assert page.complaints == []
    assert page.requests == [reports[kind].as_uri()]  # no font, script or picture from elsewhere
    assert page.ask("innerWidth") == width
    assert page.ask("document.documentElement.scrollWidth") <= width
    assert page.ask("document.querySelectorAll('script').length") == 0


@pytest.mark.parametrize("width", chromium.WIDTHS)
def test_all_of_it_is_seen(opened, width):
    page = opened("classes", width)
    assert seen(page, "h1") == 1 and seen(page, ".order li") == 3
    assert seen(page, "header .tile") == 5
    assert seen(page, "section .matrix tbody td:not(.mean)") == 3 * 4 * 3  # spaces, rows, datasets
    assert seen(page, "td.own") == 9
    assert drawn(page, "svg .level") == 6  # of the two label spaces that have a zero-shot score
    assert drawn(page, "svg .line") >= 6 + 2 + 3  # a line a dataset and space, two of "seen"; a term of the loss a task
    assert seen(page, "#cost ~ .scroll tbody tr") == 3
    assert page.ask("document.querySelector('pre').textContent").startswith("python -m src.main --model toy")


def test_pairs_are_seen(opened):
    page = opened("pairs")
    assert seen(page, "header .tile") == 4 and seen(page, ".matrix") == 3
    assert seen(page, ".matrix tbody td:not(.mean)") == 3 * 3 * 2
    assert seen(page, "rect.mark") == seen(page, "circle.mark") == 6


@pytest.mark.parametrize("width", chromium.WIDTHS)
def test_a_study_is_seen_and_its_charts_zoom(opened, width):
    """A checkbox shows all charts over their data; nothing of it is a script."""
    page = opened("study", width)
    assert seen(page, ".ranking tbody tr") == 3 and seen(page, ".missing tbody tr") == 1
    assert seen(page, ".matrix.mini tbody td:not(.mean)") == 2 * 4 * 3
    assert seen(page, "svg.whole") == 5 and seen(page, "svg.zoomed") == 0
    assert seen(page, ".band") == 2 and seen(page, ".sideways") == (2 if width == 400 else 0)
    page.ask("document.querySelector('.zoom').click()")
    assert seen(page, "svg.whole") == 0 and seen(page, "svg.zoomed") == 5


@pytest.mark.parametrize("width", chromium.WIDTHS)
def test_the_scheme_is_the_readers(opened, width):
    """By what is painted, not by what a style says."""
    shades = {}
    for scheme in chromium.SCHEMES:
        with Image.open(io.BytesIO(opened("classes", width, scheme).picture(whole=False))) as image:
            shades[scheme] = luminance("#{:02x}{:02x}{:02x}".format(*image.convert("RGB").getpixel((2, 200))))
    assert shades["light"] > 0.8 and shades["dark"] < 0.02


@pytest.mark.parametrize("scheme", chromium.SCHEMES)
def test_colours_show_the_change_on_demand(opened, scheme):
    page = opened("classes", scheme=scheme)
    cell = ".matrix .start td"
    assert seen(page, ".value-key") == 3 and seen(page, ".change-key") == 0
    before = colour(page, cell)
    page.ask("document.querySelector('.by-change').click()")
    assert colour(page, cell) != before
    assert colour(page, cell) == {"light": "#f7f7f5", "dark": "#20262c"}[scheme]  # zero-shot is its own middle
    assert seen(page, ".change-key") == 1


def test_names_stay_beside_a_matrix_that_is_wider_than_the_screen(opened):
    page = opened("classes", 300)
    page.ask("document.querySelector('.scroll').scrollLeft = 60")
    left = page.ask("document.querySelector('.matrix tbody th').getBoundingClientRect().left")
    assert left == page.ask("document.querySelector('.scroll').getBoundingClientRect().left")
    assert page.ask("document.querySelector('.scroll').scrollLeft") > 0


def test_it_is_printed_on_light_paper(opened):
    page = opened("classes", scheme="dark")
    page.call("Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    assert luminance(colour(page, "html", "color")) < 0.05
    assert page.paper().startswith(b"%PDF")


def test_a_complaint_would_be_heard(opened, reports, tmp_path):
    text = reports["classes"].read_text(encoding="utf-8")
    reports["broken"] = tmp_path / "report.html"
    reports["broken"].write_text(text.replace("</main>", "</main><script>console.error('oh')</script>"
                                              "<img src='http://example.org/x.png' alt=''>"), encoding="utf-8")
    page = opened("broken")
    assert page.complaints and page.requests == [reports["broken"].as_uri(), "http://example.org/x.png"]
