"""Make a fresh clone usable in the process that runs this: the first cell of a chapter, where ecgmoe is not installed.

The packages go into ``.cache/packages`` of the clone, in the versions of ``constraints.txt``, and this process looks
for packages there alone. Those that came with the machine stay as they are: on Colab the notebook itself lives on some
of them, and others (torchvision) were made for another PyTorch and would break the import of transformers.
"""

import importlib
import re
import site
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ROOT / ".cache" / "packages"

#: What pip is asked for, as in environment.yml and postBuild, without the tools of developers.
STEPS = (
    ("--extra-index-url", "https://download.pytorch.org/whl/cpu", "-e", ".[book]"),
    ("--no-deps", "momentfm"),
)

#: Compiled packages that a notebook may have loaded before its first cell. No process can load another version of them.
MAYBE_LOADED = ("matplotlib", "numpy", "pandas")


def loaded() -> dict[str, str]:
    """Versions of those packages of ``MAYBE_LOADED`` that this process has loaded already, from elsewhere."""
    found = {name: sys.modules[name] for name in MAYBE_LOADED if name in sys.modules}
    return {
        name: module.__version__ for name, module in found.items() if PACKAGES not in Path(str(module.__file__)).parents
    }


def constraints(kept: dict[str, str]) -> str:
    """The lines of ``constraints.txt``, with the versions of packages that are loaded already where these differ."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    for name, version in kept.items():
        text = re.sub(rf"^{name}==.*$", f"{name}=={version}", text, flags=re.MULTILINE)
    return text


def install(kept: dict[str, str]) -> None:
    """Install into ``PACKAGES``, once for these versions."""
    pins, stamp = PACKAGES.with_name("constraints.txt"), PACKAGES / ".installed"
    wanted = constraints(kept)
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return
    PACKAGES.mkdir(parents=True, exist_ok=True)
    pins.write_text(wanted, encoding="utf-8")
    print("Installing what ecgmoe needs; this takes some minutes, once.", flush=True)
    for step in STEPS:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--upgrade", "--target", str(PACKAGES)]
        subprocess.run([*command, "-c", str(pins), *step], cwd=ROOT, check=True)
    stamp.write_text(wanted, encoding="utf-8")


def enter() -> None:
    """Let this process find packages in ``PACKAGES`` and no longer among those of the machine."""
    sys.path[:] = [place for place in sys.path if Path(place).name not in ("site-packages", "dist-packages")]
    site.addsitedir(str(PACKAGES))
    importlib.invalidate_caches()


if __name__ == "__main__":
    if sys.version_info < (3, 11):  # noqa: UP036 (this file meets any Python)
        raise ImportError(f"ecgmoe needs Python 3.11 or newer, and this is {sys.version.split()[0]}")
    kept = loaded()
    install(kept)
    enter()
    from ecgmoe import __version__

    print(f"ecgmoe {__version__}, its data and its packages are in {ROOT}; delete this folder, and they are gone.")
    if kept:
        print("Loaded before, and so kept as they were:", ", ".join(f"{name} {kept[name]}" for name in kept))
