"""Files that operating systems leave behind in folders and in archives."""

_FILES = {"thumbs.db", "desktop.ini", "ehthumbs.db", "icon\r"}
_FOLDERS = {"__macosx", "$recycle.bin", "@eadir"}


def is_stray(name: str) -> bool:
    """Tell whether a file is not part of the data: hidden, or left by Windows or macOS."""
    return name.startswith(".") or name.lower() in _FILES


def is_stray_folder(name: str) -> bool:
    """Tell whether a folder is not part of the data."""
    return name.startswith(".") or name.lower() in _FOLDERS
