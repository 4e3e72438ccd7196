"""Run examples/quickstart.ipynb from top to bottom and store its outputs, without what differs from run to run:

    python scripts/notebook.py            # minutes; needs: pip install nbclient ipykernel
"""

import os
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "examples" / "quickstart.ipynb"
SECONDS = 1800  # for one cell
KEPT = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"}}


def executed(path=NOTEBOOK):
    """The notebook with the outputs of a kernel that starts in an empty folder and imports this checkout."""
    import nbformat
    from nbclient import NotebookClient
    notebook = nbformat.read(path, as_version=4)
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(notebook, timeout=SECONDS, record_timing=False,
                                resources={"metadata": {"path": folder}})
        client.execute(env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)})
    notebook.metadata = KEPT
    return notebook


if __name__ == "__main__":
    import nbformat
    nbformat.write(executed(), NOTEBOOK)
