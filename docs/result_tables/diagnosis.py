"""What a diagnosis finds, misses and repairs."""

from result_tables.figures import Row, bold, rows, select
from result_tables.registry import Cells, table

Found = dict[str, list[Row]]
"""The rows of each tool."""


@table
def diagnosis_cases() -> Cells:
    names = {
        "unstuck": "unstuck",
        "torch-audit": "torch-audit",
        "torchmortem": "torchmortem",
        "sagemaker": "SageMaker Debugger's rules",
        "sagemaker-without-initialization": "the same without `PoorWeightInitialization`",
    }
    for tool, name in names.items():
        found = select("diagnosis_cases_unstuck" if tool == "unstuck" else "diagnosis_cases", tool=tool)
        broken = [row for row in found if row["rule"] is not None]
        counts = [sum(row[key] for row in broken) for key in ("called_broken", "right_rule", "right_layer")]
        alarms = sum(row["called_broken"] for row in found if row["rule"] is None)
        crashes = sum(row["error"] is not None for row in found)
        of_all = (f" of {len(broken)}", f" of {len(found) - len(broken)}") if tool == "unstuck" else ("", "")
        yield name, f"{counts[0]}{of_all[0]}", str(counts[1]), str(counts[2]), f"{alarms}{of_all[1]}", str(crashes)


@table
def diagnosis_failures() -> Cells:
    return outcomes_of("diagnosis_failures")


@table
def diagnosis_failures_held_out() -> Cells:
    return outcomes_of("diagnosis_failures_held_out")


@table
def diagnosis_scripts() -> Cells:
    return outcomes_of("diagnosis_scripts")


@table
def diagnosis_modern() -> Cells:
    return outcomes_of("diagnosis_modern")


@table
def diagnosis_modern_strangers() -> Cells:
    """The first collection as it was judged first, and after mends; the others, judged once."""
    collections = ("strangers", "strangers_mended", "second", "third", "fourth", "fifth", "sixth")
    names = [f"diagnosis_modern_{collection}" for collection in collections]
    for found in zip(*map(outcomes_of, names), strict=True):
        yield found[0][0], *(count for _words, count in found)
    healthy = [[row["outcome"] for row in select(name, variant="healthy")] for name in names]
    yield "healthy training that looks odd accused", *(f"{own.count('accused')} of {len(own)}" for own in healthy)


@table
def held_out_missed() -> Cells:
    """The programs of the held-out half whose cause no error and no warning names, and what was said instead."""
    for row in select("diagnosis_failures_held_out", variant="broken"):
        if row["outcome"] not in ("first", "named"):
            said = dict.fromkeys(rule for _, rule, severity in row["said"] if severity != "note")
            yield row["program"], ", ".join(row["causes"]), ", ".join(said) or "-"


def outcomes_of(name: str) -> Cells:
    broken, repaired = (select(name, variant=variant) for variant in ("broken", "repaired"))
    outcomes = {
        "cause named first": ("first",),
        "cause named after another finding": ("named",),
        "another cause named": ("another",),
        "nothing said, or a note only": ("silent", "note"),
    }
    for words, of in outcomes.items():
        yield words, f"{sum(row['outcome'] in of for row in broken)} of {len(broken)}"
    yield "repaired program accused", f"{sum(row['outcome'] == 'accused' for row in repaired)} of {len(repaired)}"


@table
def trials() -> Cells:
    broken, repaired = (select("trials", variant=variant) for variant in ("broken", "repaired"))
    named = [row for row in broken if row["outcome"] != "unnamed"]
    outcomes = [row["outcome"] for row in named]
    can = len(named) - outcomes.count("no trial")
    places = [row["place"] for row in (*broken, *rows("trials_held_out"))]
    yield "cause named, and it can be tried or shown", f"{can} of {len(broken)}"
    yield "of these: proved by a trial", f"{outcomes.count('proved')} of {can}"
    yield "shown by running the recorded step again", f"{outcomes.count('shown')} of {can}"
    yield "named only", f"{outcomes.count('no trial')} of {len(broken)}"
    yield "all rules off: an edit for the cause comes first", f"{places.count(1)} of {len(places)}"
    yield "all rules off: among the first three", f"{sum(place in (1, 2, 3) for place in places)} of {len(places)}"
    accused = [row["outcome"] for row in repaired].count("proved")
    yield "repaired program with a proved finding", f"{accused} of {len(repaired)}"


@table
def rescues() -> Cells:
    for row in rows("rescues"):
        remedy = bold(f"{row['remedy']:.0f}", not row["rescued"])
        yield row["network"], f"{row['broken']:.0f}", f"{row['repaired']:.0f}", remedy


@table
def watch() -> Cells:
    """Every script, whole and with its fault."""
    for whole in select("watch", fault="none"):
        (broken,) = (row for row in select("watch", program=whole["program"]) if row["fault"] != "none")
        same = whole["ran"] and whole["same"] and broken["ran"] and broken["same"]
        named = bold("no", True) if not broken["named"] else "yes"
        yield whole["program"], bold("no", True) if not same else "yes", whole["found"] or "no", broken["fault"], named


@table
def watch_repositories() -> Cells:
    """For each repository: the scripts that trained, those whose finding describes a defect, and those accused."""
    for repository in dict.fromkeys(row["repository"] for row in rows("watch_repositories")):
        trained = [row for row in select("watch_repositories", repository=repository) if row["measured"]]
        named = [
            f"{row['script']} ({row['found']}): {row['defect']}"
            for row in trained
            if row["found"] and not row["accused"]
        ]
        accused = [f"{row['script']} ({row['found']})" for row in trained if row["accused"]]
        yield repository, str(len(trained)), "; ".join(named) or "-", "; ".join(accused) or "none"


@table
def watch_overhead() -> Cells:
    for row in rows("watch_overhead"):
        walls = sorted(row["runs"])
        missed = row["step_ms"] >= 5 and row["overhead"] > 1.03
        overhead = bold(f"{row['overhead']:.2f}", missed)
        spread = f"{overhead} ({walls[0]:.2f} to {walls[-1]:.2f})"
        yield row["program"], f"{row['step_ms']:.1f}", spread, f"{row['processor']:.2f}"


@table
def healthy_zoo() -> Cells:
    """Networks of others that are accused, at each stage, with the rules that accuse them."""
    for group in dict.fromkeys(row["group"] for row in rows("healthy_zoo")):
        cells, errors, rules = [], set(), set()
        for stage in ("initial", "monitor", "trained"):
            found = select("healthy_zoo", group=group, stage=stage)
            judged = [row for row in found if row["error"] is None]
            accused = [row for row in judged if row["accused"]]
            errors.update(row["network"] for row in found if row["error"] is not None)
            rules.update(rule for row in accused for rule in row["rules"].split())
            cells.append(f"{len(accused)} of {len(judged)}")
        yield group, *cells, ", ".join(sorted(rules)) or "-", str(len(errors))


@table
def failures_peers() -> Cells:
    """What tools say of the programs of real people, of those that they can be asked about."""
    return outcomes_by_tool(ours() | peers("failures_peers"))


@table
def tools() -> Cells:
    """For the README of unstuck: causes named of the programs held out, and repaired programs accused."""
    asked = {
        "**unstuck**": ("your script, unchanged", "diagnosis_failures_held_out", None),
        "SageMaker Debugger's rules": ("a hook in your loop", "failures_peers", "sagemaker"),
        "torchmortem": ("a wrapper of your loop", "failures_peers", "torchmortem"),
        "torch-audit": ("a wrapper of your loop", "failures_peers", "torch-audit"),
        "TrainCheck": ("healthy runs of the same code to learn from", "failures_traincheck", "traincheck"),
    }
    for name, (needs, results, tool) in asked.items():
        found = [row for row in rows(results) if tool is None or (row["tool"], row["half"]) == (tool, "held out")]
        broken, repaired = ([row for row in found if row["variant"] == v] for v in ("broken", "repaired"))
        outcomes = [row["outcome"] for row in broken if row["outcome"] is not None]
        accused = [row["outcome"] == "accused" for row in repaired if row["outcome"] is not None]
        named = outcomes.count("first") + outcomes.count("named")
        yield name, needs, f"{named} of {len(outcomes)}", f"{sum(accused)} of {len(accused)}"


@table
def failures_traincheck() -> Cells:
    """The programs that TrainCheck was given, and what the other tools say of the same."""
    drawn = {row["program"] for row in rows("failures_traincheck")}
    found = ours() | peers("failures_traincheck") | peers("failures_peers")
    return outcomes_by_tool({tool: [row for row in of if row["program"] in drawn] for tool, of in found.items()})


def ours() -> Found:
    return {
        "unstuck": [row | {"error": None} for half in ("", "_held_out") for row in rows(f"diagnosis_failures{half}")]
    }


def peers(name: str) -> Found:
    return {row["tool"]: select(name, tool=row["tool"]) for row in rows(name)}


def outcomes_by_tool(found: Found) -> Cells:
    for tool, of in found.items():
        judged = [row for row in of if row["error"] is None]
        broken = [row["outcome"] for row in judged if row["variant"] == "broken"]
        repaired = [row["outcome"] for row in judged if row["variant"] == "repaired"]
        first, named, another = (broken.count(which) for which in ("first", "named", "another"))
        fell = sum(row["error"] is not None and "OwnLoop" not in row["error"] for row in of)
        counts = (f"{count} of {len(broken)}" for count in (first, first + named, another))
        yield tool, *counts, f"{repaired.count('accused')} of {len(repaired)}", str(fell)
