"""The first cell of every chapter, which fetches ecgmoe where it is not installed: ``make first-cells`` writes it.

On Colab a chapter is alone: the cell has to know where the repository is, and at which tag. Both are written into it
from their one place, ``repository.url`` of ``_config.yml`` and the version of ``ecgmoe``.
"""

from pathlib import Path

import nbformat
import yaml
from ecgmoe_book import ROOT, repository_url

from ecgmoe import __version__

#: The clone is not called ``ecgmoe``: a folder of that name beside a notebook is taken for a package, an empty one.
TEMPLATE = """\
# Fetches ecgmoe, its data and its packages where they are missing, as on Colab; elsewhere this cell does nothing.
from importlib.util import find_spec

if getattr(find_spec("ecgmoe"), "origin", None) is None:
    import runpy
    import subprocess
    from pathlib import Path

    repository, tag = "{url}", "v{version}"
    if not repository:
        raise ImportError("between the quotes above, write where the repository is; or in its folder, run: make lab")
    if not Path(f"ecgmoe-{{tag}}").exists():
        clone = f"git clone -q --depth 1 -c advice.detachedHead=false --branch {{tag}} {{repository}} ecgmoe-{{tag}}"
        subprocess.run(clone.split(), check=True)
    runpy.run_path(f"ecgmoe-{{tag}}/book/install_here.py", run_name="__main__")"""


def source(root: Path = ROOT) -> str:
    """Text of the cell for the settings of a checkout."""
    setting = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))["repository"]["url"]
    return TEMPLATE.format(url=repository_url(setting) if setting else "", version=__version__)


def write(path: Path, text: str) -> None:
    """Write the cell into a notebook, behind its title: in the place of the one that is there, or as a new one."""
    notebook = nbformat.read(path, as_version=4)
    cell = nbformat.v4.new_code_cell(text, id=f"fetch-{path.stem[:2]}", metadata={"tags": ["remove-cell"]})
    if notebook.cells[1].id == cell.id:
        notebook.cells[1] = cell
    else:
        notebook.cells.insert(1, cell)
    path.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        write(path, source())
