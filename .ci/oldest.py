"""Print the lowest versions that the packages allow, as a constraints file for pip: `make test-oldest`.

Where two extras give a package different lower bounds, the higher one counts.
"""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

OURS = {"sigmoid-core", "unstuck"}


def lowest(pyprojects: list[Path]) -> dict[str, Version]:
    """The lower bound of every requirement, by package name."""
    texts: list[str] = []
    for pyproject in pyprojects:
        project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
        extras = project.get("optional-dependencies", {}).values()
        texts += [*project["dependencies"], *(text for extra in extras for text in extra)]
    bounds: dict[str, Version] = {}
    for requirement in map(Requirement, texts):
        if requirement.name in OURS:
            continue
        for specifier in requirement.specifier:
            if specifier.operator == ">=":
                found = Version(specifier.version)
                bounds[requirement.name] = max(found, bounds.get(requirement.name, found))
    return bounds


if __name__ == "__main__":
    for name, version in sorted(lowest(sorted(Path("packages").glob("*/pyproject.toml"))).items()):
        print(f"{name}=={version}")
