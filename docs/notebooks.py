"""Run the notebooks in the folder beside this script and store their output in them.

It needs nbclient and ipykernel. Only the output changes.
"""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).with_suffix("")


def executed(path: Path, work: Path) -> nbformat.NotebookNode:
    """Return the notebook with fresh outputs, run in the folder `work`. A failing cell raises `CellExecutionError`."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(work)}})
    client.execute()
    kernel, language = {"name": "python3", "display_name": "Python 3"}, {"name": "python", "pygments_lexer": "python3"}
    notebook.metadata = nbformat.from_dict({"kernelspec": kernel, "language_info": language})
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if "outputs" in cell:
            cell.outputs = joined(cell.outputs)
    return notebook


def joined(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Join the pieces in which a cell's output arrives: one output for each stream."""
    found: list[nbformat.NotebookNode] = []
    streams: dict[str, nbformat.NotebookNode] = {}
    for output in outputs:
        if output.output_type == "stream" and output.name in streams:
            streams[output.name].text += output.text
        else:
            found.append(output)
            if output.output_type == "stream":
                streams[output.name] = output
    return found


if __name__ == "__main__":
    for path in sorted(FOLDER.glob("*.ipynb")):
        if not sys.argv[1:] or path.stem in sys.argv[1:]:
            nbformat.write(executed(path, FOLDER), path)
            print(f"{path}: {path.stat().st_size / 1000:.0f} kB")
