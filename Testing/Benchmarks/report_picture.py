"""A picture of the top of a reader study's report, as a browser draws it.

    python Testing/Benchmarks/report_picture.py RESULTS/report.html [--out Docs/Images/reader_report.png]

Draws from the title to the end of the primary endpoint, 720 pixels wide. The one in the documentation is the report of
`reader_study_demonstration.py`: 12 + 12 volumes, three simulated readers. Needs `pip install PySide6`, whole: its
browser (QtWebEngine) is not in the extra "dev".
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("QTWEBENGINE_DISABLE_SANDBOX", "1")  # which root in a container does not get
os.environ.setdefault("QTWEBENGINE_CHROMIUM_FLAGS", "--disable-gpu")

ROOT = Path(__file__).resolve().parents[2]
WIDTH, SHOWN = 960, 720  # of the page, of the picture
LONGEST_S = 60
# Where the primary endpoint ends, with the page's own scroll bar out of the way.
END = (
    "document.documentElement.style.overflow = 'hidden';"
    " document.querySelector('section.primary').getBoundingClientRect().bottom"
)


def draw(report: Path, out: Path) -> None:
    """Loads the page, sizes the view to what is to be seen, and saves it."""
    from PySide6.QtCore import Qt, QTimer, QUrl
    from PySide6.QtWebEngineWidgets import QWebEngineView
    from PySide6.QtWidgets import QApplication

    app = QApplication([])
    view = QWebEngineView()
    view.resize(WIDTH, WIDTH)
    view.show()

    def save() -> None:
        picture = view.grab().toImage().scaledToWidth(SHOWN, Qt.TransformationMode.SmoothTransformation)
        if not picture.save(str(out)):
            raise SystemExit(f"{out} could not be written")
        print(f"{out.name} {picture.width()} x {picture.height()}")
        app.quit()

    def measured(bottom: float | None) -> None:
        view.resize(WIDTH, int(bottom or WIDTH) + 16)
        QTimer.singleShot(2000, save)  # the view draws when it has its new size

    view.loadFinished.connect(lambda _: view.page().runJavaScript(END, measured))
    view.load(QUrl.fromLocalFile(str(report.resolve())))
    QTimer.singleShot(1000 * LONGEST_S, lambda: app.exit(1))
    if app.exec():
        raise SystemExit(f"the page was not drawn within {LONGEST_S} seconds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("--out", type=Path, default=ROOT / "Docs" / "Images" / "reader_report.png")
    args = parser.parse_args()
    if not args.report.is_file():
        parser.error(f"there is no file {args.report}")
    draw(args.report, args.out)


if __name__ == "__main__":
    main()
