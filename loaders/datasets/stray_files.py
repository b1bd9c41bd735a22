"""What systems leave behind in folders, and archives made on them."""

_FILES = {"thumbs.db", "desktop.ini", "ehthumbs.db", "icon\r"}
_FOLDERS = {"__macosx", "$recycle.bin", "@eadir"}


def is_stray(name: str) -> bool:
    """Tell whether a file is nobody's: hidden, or left behind by Windows or macOS."""
    return name.startswith(".") or name.lower() in _FILES


def is_stray_folder(name: str) -> bool:
    """Tell whether a folder is nobody's."""
    return name.startswith(".") or name.lower() in _FOLDERS
