"""Pictures of panels at a given width, captioned as the stand-in's."""

from __future__ import annotations

from pathlib import Path

from PySide6 import QtCore, QtGui, QtWidgets

CAPTION = "PySide6 test stand-in, not 3D Slicer"
_DARK = {
    "Window": "#323232",
    "WindowText": "#e6e6e6",
    "Base": "#252525",
    "AlternateBase": "#2d2d2d",
    "Text": "#e6e6e6",
    "Button": "#3c3c3c",
    "ButtonText": "#e6e6e6",
    "BrightText": "#ff6b6b",
    "Highlight": "#2a6fb0",
    "HighlightedText": "#ffffff",
    "ToolTipBase": "#3c3c3c",
    "ToolTipText": "#e6e6e6",
    "PlaceholderText": "#8a8a8a",
    "Link": "#6cb2ff",
    "Light": "#505050",
    "Midlight": "#464646",
    "Mid": "#2a2a2a",
    "Dark": "#1e1e1e",
}


def dark_palette() -> QtGui.QPalette:
    palette = QtGui.QPalette()
    for role, color in _DARK.items():
        palette.setColor(getattr(QtGui.QPalette.ColorRole, role), QtGui.QColor(color))
    for role in ("Text", "WindowText", "ButtonText"):
        grey = QtGui.QColor("#7d7d7d")
        palette.setColor(QtGui.QPalette.ColorGroup.Disabled, getattr(QtGui.QPalette.ColorRole, role), grey)
    return palette


def use_theme(dark: bool = False, font_scale: float = 1.0) -> None:
    """Sets palette and font of the whole application, as a user does who changes the theme while it runs."""
    app = QtWidgets.QApplication.instance()
    app.setStyle("Fusion")
    app.setPalette(dark_palette() if dark else app.light)
    font = QtGui.QFont(app.plain_font)
    font.setPointSizeF(font.pointSizeF() * font_scale)
    app.setFont(font)
    app.processEvents()


def screenshot(
    widget,
    path: str | Path,
    width: int,
    height: int | None = None,
    fontScale: float = 1.0,
    dark: bool = False,
    caption="",
) -> QtCore.QSize:
    """Writes a picture of a widget.

    Args:
        widget: proxy of a widget without a parent, or of one within a panel.
        width, height: in pixels; without a height, as high as the contents want to be.
        fontScale: 2.0 for a font of 200 %.
        caption: a line below the picture, before the one that says what it is.

    Returns:
        the size that the contents take at least: wider than `width` means that they do not fit.
    """
    shown = widget._obj
    app = QtWidgets.QApplication.instance()
    use_theme(dark, fontScale)
    try:
        shown.setAttribute(QtCore.Qt.WidgetAttribute.WA_DontShowOnScreen, shown.isWindow())
        shown.show()
        for _ in range(3):  # word-wrapped labels know their height only when they know their width
            tall = shown.heightForWidth(width) if shown.hasHeightForWidth() else -1
            shown.resize(width, height or max(tall, shown.sizeHint().height()))
            app.processEvents()
        picture = _with_caption(shown.grab(), f"{caption}  [{CAPTION}]" if caption else f"[{CAPTION}]")
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        if not picture.save(str(path)):
            raise OSError(f"cannot write {path}")
        return shown.minimumSizeHint()
    finally:
        use_theme()


def _with_caption(picture: QtGui.QPixmap, text: str) -> QtGui.QPixmap:
    font = QtGui.QFont(QtWidgets.QApplication.instance().plain_font)
    metrics = QtGui.QFontMetrics(font)
    flags = QtCore.Qt.TextFlag.TextWordWrap | QtCore.Qt.AlignmentFlag.AlignLeft
    space = metrics.boundingRect(0, 0, picture.width() - 12, 1000, flags, text)
    whole = QtGui.QPixmap(picture.width(), picture.height() + space.height() + 8)
    whole.fill(QtGui.QColor("#ffe9a8"))
    painter = QtGui.QPainter(whole)
    painter.drawPixmap(0, 0, picture)
    painter.setFont(font)
    painter.setPen(QtGui.QColor("#000000"))
    painter.drawText(6, picture.height() + 4, picture.width() - 12, space.height(), flags, text)
    painter.end()
    return whole
