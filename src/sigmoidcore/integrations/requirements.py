"""The error of a module whose framework is not installed."""


def missing(module: str, *packages: str) -> ImportError:
    """The error that says what to install."""
    return ImportError(f"{module} needs {' or '.join(packages)}, which is missing: pip install {packages[0]}")
