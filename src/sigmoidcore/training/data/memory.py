"""How much memory this machine has: the limit of what a file may make of itself."""

import os


def memory() -> int:
    """Bytes of this machine's memory, or 1 TiB where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 1 << 40
