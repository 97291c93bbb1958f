"""The command `sigmoid-core`."""


def main() -> None:
    """Entry point."""
    raise SystemExit("not built yet")
