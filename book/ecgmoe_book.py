"""Local Sphinx extension: the book shows exactly what papermill executed.

At start-up it has every chapter executed whose run no longer holds, puts the executed notebooks where Sphinx reads them
(``book/notebooks/``, ignored by git), with a table of the parameters and a link from each figure to its code, and
writes the page fragments that depend on the runs or on the repository's address. A chapter that fails is shown as far
as it came, and the build ends in an error that names chapter and cell.
"""

import hashlib
import importlib.util
import platform
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nbformat
import yaml
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.errors import SphinxError

from ecgmoe import __version__, chapters, findings, paper, reference, results

BOOK = Path(__file__).resolve().parent
ROOT = BOOK.parent

#: A forge whose links the theme can make; an address with a user name or a token in it does not match.
PUBLIC_ADDRESS = re.compile(r"https://(?:github|gitlab)\.com/[\w.-]+/[\w.-]+?(?=(?:\.git)?/?$)")

#: How the address of a DOI begins.
DOI = "https://doi.org/"

#: Script that settles light or dark before anything is drawn; without it the theme reports an error at a first visit.
MODE = """{
  const page = document.documentElement.dataset;
  page.mode ||= "auto";
  page.theme ||= matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
}"""

#: Packages whose versions decide the numbers.
PACKAGES = ("torch", "transformers", "peft", "numpy", "scipy", "scikit-learn", "wfdb", "neurokit2", "papermill")


class ChaptersFailed(SphinxError):
    """At least one chapter raised while it was executed."""

    category = "Chapters failed"


def setup(app: Sphinx) -> dict[str, Any]:
    """Execute what is missing, then lay out the sources; called by Sphinx before it reads anything."""
    report = chapters.run(root=ROOT)
    print("\n".join(chapters.describe(report)))
    state = hashlib.sha256()
    for name in chapters.names(ROOT):
        shown = report.folder / f"{name}{'.failed' if name in report.failures else ''}.ipynb"
        page = page_of(shown, chapters.declared(name, ROOT))
        state.update(page.encode())
        write_if_changed(BOOK / "notebooks" / f"{name}.ipynb", page)
    for stale in set((BOOK / "notebooks").glob("*.ipynb")) - {
        BOOK / "notebooks" / f"{name}.ipynb" for name in chapters.names(ROOT)
    }:
        stale.unlink()
    write_if_changed(BOOK / "_generated" / "runs.md", "\n".join(runs_table(report)) + "\n")
    write_if_changed(BOOK / "_generated" / "found.md", "\n".join(found()) + "\n")

    def finish(app: Sphinx, exception: Exception | None) -> None:
        if report.failures and exception is None:
            raise ChaptersFailed("\n".join(f"{name}, {error}" for name, error in report.failures.items()))

    leave_out_thebe(app)
    app.add_js_file(None, body=MODE)
    app.add_config_value("ecgmoe_runs", "", "env")
    app.connect("config-inited", lambda app, config: configure(config, state.hexdigest()), priority=100)
    app.connect("html-page-context", point_to_sources, priority=900)
    app.connect("html-page-context", without_role_of_a_list)
    app.connect("html-page-context", name_what_unfolds, priority=900)
    app.connect("linkcheck-process-uri", ask_the_register)
    app.connect("autodoc-process-docstring", leave_out_aliases)
    app.connect("build-finished", finish)
    return {"version": __version__, "parallel_read_safe": True, "parallel_write_safe": True}


def page_of(executed: Path, parameters: Mapping[str, Any]) -> str:
    """Executed notebook as the book shows it.

    Papermill's bookkeeping (times, paths of this machine) is left out; the caption of a figure gets a link to the
    function that draws it, and before the exercises stands what can be changed.
    """
    notebook = nbformat.read(executed, as_version=4)
    for part in (notebook, *notebook.cells):
        part.metadata.pop("papermill", None)
    for cell in notebook.cells:
        figure = cell.metadata.get("mystnb", {}).get("figure")
        drawn = re.findall(r"\bplots\.([a-z]\w*)\(", cell.source)
        if figure and drawn:
            figure["caption"] = f"{figure['caption'].rstrip()} Code: {{py:func}}`~ecgmoe.plots.{drawn[-1]}`."
    at = [i for i, cell in enumerate(notebook.cells) if cell.source.startswith("## Exercises")]
    name = executed.stem.removesuffix(".failed")
    table = nbformat.v4.new_markdown_cell("\n".join(parameters_table(name, parameters)), id="parameters-table")
    notebook.cells.insert(at[-1] if at else len(notebook.cells), table)
    return nbformat.writes(notebook) + "\n"


def parameters_table(chapter: str, parameters: Mapping[str, Any]) -> Iterator[str]:
    """Markdown: the parameters that a chapter declares, and the command that runs it with others."""
    yield "## Parameters"
    yield ""
    yield f"`.venv/bin/python -m ecgmoe chapters {chapter[:2]} -p NAME VALUE` runs this chapter with other parameters;"
    yield "a name or a value that it does not know is refused ({doc}`../rerun` tells more)."
    yield ""
    yield "| parameter | type | default | what it is |"
    yield "|---|---|---|---|"
    for name, parameter in parameters.items():
        help_text = (parameter["help"] or "").replace("|", "\\|")
        yield f"| `{name}` | {parameter['inferred_type_name']} | `{parameter['default']}` | {help_text} |"


def write_if_changed(path: Path, text: str) -> None:
    """Write ``text`` unless ``path`` holds it already: an unchanged page is not read again."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)


def runs_table(report: chapters.Report, root: Path = ROOT) -> Iterator[str]:
    """Markdown: how long each chapter ran, with its slowest cell, and in which environment."""
    yield "| chapter | executed (UTC) | duration (s) | slowest cell (s) | machine | Python |"
    yield "|---|---|---:|---:|---|---|"
    for name in chapters.names(root):
        path = report.folder / f"{name}.ipynb"
        if name in report.failures or not path.exists():
            yield f"| `{name}` | failed | | | | |"
            continue
        notebook = nbformat.read(path, as_version=4)
        times, run = notebook.metadata.papermill, notebook.metadata.ecgmoe
        slowest = max(cell.metadata.papermill.duration or 0.0 for cell in notebook.cells)
        started = times.start_time[:16].replace("T", " ")
        yield f"| `{name}` | {started} | {times.duration:.0f} | {slowest:.0f} | {run.machine} | {run.python} |"
    yield ""
    yield "| package | version |"
    yield "|---|---|"
    yield f"| Python | {platform.python_version()} |"
    yield from (f"| {package} | {version(package)} |" for package in PACKAGES)


def found() -> Iterator[str]:
    """Markdown for the front page: the claims of the paper by verdict, and headline scores on real recordings."""
    verdicts = paper.audit()

    def those(verdict: str) -> list[str]:
        return [one.claim for one in verdicts if one.verdict == verdict]

    def named(verdict: str, words: str) -> str:
        return f"**{len(those(verdict))} {words}** ({'; '.join(those(verdict))})"

    yield (
        f"Of {len(verdicts)} claims about the paper, held against its own tables, {named('holds', 'hold')}, "
        + ", ".join(
            (
                named("contradicted", "are contradicted"),
                named("not derivable", "cannot be derived"),
                f"**{len(those('overstated'))} are overstated**",
            )
        )
        + f", and for **{len(those('not shown'))} nothing is shown**: {{doc}}`notebooks/08_claims_audit` has them all."
    )
    run = reference.load("reference_ptbxl")
    if run is None:
        return
    metrics = run["metrics"]
    yield ""
    n = metrics["records"]["test"]
    yield f"On real hearts (PTB-XL's fold 9, {n:,} recordings; {{doc}}`notebooks/07_ablation`):"
    yield ""
    yield from findings.front_table(metrics)


def repository_url(setting: str) -> str:
    """Address of the repository: the setting, else a public https remote ``origin``, else empty."""
    if not setting:
        setting = results.git("remote", "get-url", "origin") or ""
    match = PUBLIC_ADDRESS.match(setting)
    return match.group() if match else ""


def configure(config: Config, state: str) -> None:
    """Settings that only the build knows: state of the runs, address of the repository, the local MathJax."""
    config["ecgmoe_runs"] = state
    options = config["html_theme_options"]
    setting = options.get("repository_url", "")
    url = repository_url(setting)
    options["repository_url"] = url
    for button in ("use_repository_button", "use_issues_button", "use_edit_page_button"):
        options[button] = bool(url)
    if not url:
        options["launch_buttons"] = {}
    elif not setting or not url.startswith("https://github.com/"):  # what Colab can open, and its first cell can fetch
        options["launch_buttons"] = {key: to for key, to in options["launch_buttons"].items() if key != "colab_url"}
    write_if_changed(BOOK / "_generated" / "citation.md", citation(url))
    mathjax = importlib.util.find_spec("sphinx-mathjax-offline")
    if mathjax is None or mathjax.origin is None:
        raise SphinxError("sphinx-mathjax-offline is not installed: run `make book`")
    config["html_static_path"].append(str(Path(mathjax.origin).parent / "static" / "mathjax" / "tex-svg-full.js"))


def leave_out_thebe(app: Sphinx) -> None:
    """Silence an extension of Jupyter Book that nothing here uses: its script comes twice, an error in every page."""
    for event in ("env-before-read-docs", "doctree-resolved"):
        for listener in list(app.events.listeners[event]):
            if listener.handler.__module__ == "sphinx_thebe":
                app.disconnect(listener.id)


def leave_out_aliases(app: Sphinx, what: str, name: str, found: object, options: object, lines: list[str]) -> None:
    """Nothing is better than what Python says by itself of a field of a named tuple."""
    if lines and lines[0].startswith("Alias for field number"):
        lines.clear()


def ask_the_register(app: Sphinx, uri: str) -> str | None:
    """Address that says whether a DOI exists: the register's, for publishers turn programs away."""
    return f"https://doi.org/api/handles/{uri.removeprefix(DOI)}" if uri.startswith(DOI) else None


def citation(url: str) -> str:
    """BibTeX entry from CITATION.cff, with the repository's address where it is known."""
    cff = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    fields = {
        "author": " and ".join(f"{{{author['name']}}}" for author in cff["authors"]),
        "title": f"{{{cff['title']}}}",
        "version": cff["version"],
        "year": str(cff["references"][0]["year"]),
    }
    if url:
        fields["url"] = url
    lines = [f"  {key:<7} = {{{value}}}," for key, value in fields.items()]
    return "\n".join(["```bibtex", "@software{ecgmoe,", *lines, "}", "```", ""])


def point_to_sources(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: object) -> None:
    """Make launch and edit links point at ``notebooks/``: the copies under ``book/`` are not in the repository."""
    if pagename.startswith("notebooks/"):
        context["header_buttons"] = at_sources(context.get("header_buttons", []))


def without_role_of_a_list(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: object
) -> None:
    """Take from a bibliography the role of a list, which docutils gives it though its entries are no items of one."""
    if "body" in context:
        context["body"] = context["body"].replace('role="list" class="citation-list"', 'class="citation-list"')


def name_what_unfolds(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: object) -> None:
    """Name the arrows that unfold pages in the sidebar: the theme gives them no text that could be read out."""
    contents = context["generate_toctree_html"]

    def with_names(*args: Any, **kwargs: Any) -> Any:
        soup = contents(*args, **kwargs)
        for folded in soup("details"):
            folded.summary["aria-label"] = f"Pages of {folded.find_previous_sibling('a').get_text()}"
        return soup

    context["generate_toctree_html"] = with_names


def at_sources(value: Any) -> Any:
    """``value`` with every ``book/notebooks/`` in its texts replaced, also where it is percent-encoded."""
    if isinstance(value, str):
        return re.sub(r"book(/|%2F)notebooks(?=/|%2F)", "notebooks", value)
    if isinstance(value, dict):
        return {key: at_sources(item) for key, item in value.items()}
    if isinstance(value, list):
        return [at_sources(item) for item in value]
    return value
