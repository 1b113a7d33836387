"""Print a page to PDF with an installed Chromium or Chrome and without any network: ``make pdf`` prints the book.

The page is that of Sphinx's ``singlehtml``: there references between chapters are anchors, and stay links in the PDF.
"""

import shutil
import subprocess
import sys
from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome")

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # a page that needs the network would be printed as it looks today
    "--virtual-time-budget=60000",  # ms of the page's own clock: formulas are set by a script
    "--no-pdf-header-footer",  # else the path of the page is printed on every sheet
    "--generate-pdf-document-outline",
)


def print_pdf(page: Path, pdf: Path, timeout_s: float = 900) -> None:
    """Print ``page``, an HTML file, to ``pdf``, whole or not at all.

    Raises
    ------
    FileNotFoundError
        There is no such page, or no browser.
    RuntimeError
        The browser printed nothing; the message has its last words.
    """
    if not page.is_file():
        raise FileNotFoundError(f"there is no page {page}")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise FileNotFoundError(f"no browser to print with: install one of {', '.join(BROWSERS)}")
    pdf.parent.mkdir(parents=True, exist_ok=True)
    partial = pdf.with_name(f".{pdf.name}.partial")
    partial.unlink(missing_ok=True)
    command = [browser, *FLAGS, f"--print-to-pdf={partial.resolve()}", page.resolve().as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    if not partial.is_file() or partial.read_bytes()[:5] != b"%PDF-":
        raise RuntimeError(f"{browser} printed nothing of {page}:\n{done.stderr[-2000:]}")
    partial.replace(pdf)


if __name__ == "__main__":
    try:
        print_pdf(Path(sys.argv[1]), Path(sys.argv[2]))
    except (FileNotFoundError, RuntimeError) as error:
        sys.exit(f"Error: {error}")
    print(f"wrote {sys.argv[2]}")
