"""Print the lowest versions that pyproject.toml allows, as a constraints file for pip: `make test-oldest`.

Where two extras give a package different lower bounds, the higher one counts.
"""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

FOR_CONTRIBUTORS = {"dev", "docs", "test"}


def lowest(pyproject: Path) -> dict[str, Version]:
    """The lower bound of every requirement, by package name."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    extras = [lines for name, lines in project["optional-dependencies"].items() if name not in FOR_CONTRIBUTORS]
    bounds: dict[str, Version] = {}
    for text in [*project["dependencies"], *(line for extra in extras for line in extra)]:
        requirement = Requirement(text)
        for specifier in requirement.specifier:
            if specifier.operator == ">=":
                found = Version(specifier.version)
                bounds[requirement.name] = max(found, bounds.get(requirement.name, found))
    return bounds


if __name__ == "__main__":
    for name, version in sorted(lowest(Path("pyproject.toml")).items()):
        print(f"{name}=={version}")
