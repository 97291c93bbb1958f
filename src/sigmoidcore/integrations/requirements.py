"""The error of a module whose framework is not installed."""


def missing(module: str, *packages: str) -> ImportError:
    """The error that says what to install.

    Example:
        >>> raise missing("sigmoidcore.integrations.ignite", "pytorch-ignite")
        Traceback (most recent call last):
        ImportError: sigmoidcore.integrations.ignite needs pytorch-ignite, which is missing: pip install pytorch-ignite
    """
    return ImportError(f"{module} needs {' or '.join(packages)}, which is missing: pip install {packages[0]}")
