"""`unstuck` on scripts that nobody here wrote: unmodified, and with one fault in each.

The scripts are PyTorch's examples, minGPT, nanoGPT and Lightning's examples. Their checkouts are not part of the
project::

    git clone https://github.com/pytorch/examples PROGRAMS/examples
    git clone https://github.com/karpathy/minGPT PROGRAMS/minGPT
    git clone https://github.com/karpathy/nanoGPT PROGRAMS/nanoGPT
    git clone https://github.com/Lightning-AI/pytorch-lightning PROGRAMS/pytorch-lightning
    pip install six torchvision lightning "jsonargparse[signatures]"
    python benchmarks/watch.py --programs PROGRAMS

Each script runs four times on small data made here: by Python and by `unstuck`, whole and with the fault. `same`: the
output (but for times) and all files are those without it, bit for bit. `found`: errors and warnings of the
verdict. `ran`: with the exit code that it has without it; 0 when whole. `named`: a rule of the fault is among
them or was printed during the training, or the verdict says it in words.
"""

import argparse
import hashlib
import json
import os
import pickletools
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from _report import SOURCES, Report, arguments

TIMES = re.compile(r"ms/batch +[\d.]+|time: +[\d.]+s|time [\d.]+ms|iter_dt [\d.]+ms|mfu -?[\d.]+%|[\d.]+it/s|\d+:\d\d")
UNCOMPARED = (".pdf", ".pyc")
"""Files that contain a date."""


@dataclass(frozen=True)
class Fault:
    """One mistake, as a replacement in one file.

    Attributes:
        name: the mistake in words.
        names: rules, or words of the verdict, that name it.
    """

    name: str
    file: str
    before: str
    after: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class Program:
    """A script of others.

    Attributes:
        folder: the files of the checkouts that it needs.
        script: in this folder; it runs in its own folder.
        options: for a training of few steps.
        data: writes the data that it reads into the folder of the script.
        longer: options for 200 to 1,500 steps, for `watch_overhead.py`.
    """

    name: str
    folder: str
    script: str
    options: str
    fault: Fault
    data: Callable[[Path], None] = lambda folder: None
    longer: str = ""


def mnist(place: str, rows: int = 1600) -> Callable[[Path], None]:
    """Images of ten blurred patterns in the format of MNIST, at a place relative to the script."""

    def write(folder: Path) -> None:
        raw = folder / place / "MNIST" / "raw"
        raw.mkdir(parents=True)
        generator = torch.Generator().manual_seed(0)
        patterns = torch.rand(10, 28, 28, generator=generator).gt(0.8).float()
        for name, count in (("train", rows), ("t10k", 300)):
            labels = torch.randint(10, (count,), generator=generator)
            noise = torch.rand(count, 28, 28, generator=generator)
            images = (patterns[labels] * 180 + noise * 75).byte()
            head = struct.pack(">iiii", 2051, count, 28, 28)
            (raw / f"{name}-images-idx3-ubyte").write_bytes(head + images.numpy().tobytes())
            head = struct.pack(">ii", 2049, count)
            (raw / f"{name}-labels-idx1-ubyte").write_bytes(head + labels.byte().numpy().tobytes())

    return write


def sentences(count: int) -> str:
    """Words that a simple grammar joins."""
    choose = random.Random(0).choice
    things, deeds = ["the cat", "a dog", "the bird", "my friend"], ["sees", "likes", "follows", "hears"]
    return "\n".join(f"{choose(things)} {choose(deeds)} {choose(things)}" for _ in range(count)) + "\n"


def lightning_mnist(folder: Path) -> None:
    """Where Lightning's loader looks whether there is any, and where it reads it."""
    mnist("data", 10)(folder)
    mnist("../../Datasets", 60000)(folder)


def words(folder: Path) -> None:
    """A corpus of three files."""
    (folder / "text").mkdir()
    for name, count in (("train", 2500), ("valid", 100), ("test", 100)):
        (folder / "text" / f"{name}.txt").write_text(sentences(count))


def characters(folder: Path) -> None:
    """One text, with the letters of the prompt of minGPT."""
    (folder / "input.txt").write_text("O God, O God!\n" + sentences(400))


def tokens(folder: Path) -> None:
    """Characters of a text as numbers, for nanoGPT."""
    (folder / "data" / "made").mkdir(parents=True)
    numbers = torch.tensor([ord(c) % 64 for c in sentences(600)], dtype=torch.uint16)
    for name in ("train", "val"):
        (folder / "data" / "made" / f"{name}.bin").write_bytes(numbers.numpy().tobytes())


def photographs(folder: Path) -> None:
    """Smooth pictures where BSDS300 would be."""
    from torchvision.utils import save_image

    generator = torch.Generator().manual_seed(0)
    for part, count in (("train", 24), ("test", 4)):
        place = folder / "dataset" / "BSDS300" / "images" / part
        place.mkdir(parents=True)
        for i in range(count):
            small = torch.rand(1, 3, 12, 12, generator=generator)
            save_image(torch.nn.functional.interpolate(small, 256, mode="bicubic").clamp(0, 1), place / f"{i}.png")


LM = "--data text --emsize 32 --nhid 32 --batch_size 16 --bptt 20 --dropout 0.1"
GPT = "--model.model_type=gpt-nano --data.block_size=32 --trainer.num_workers=0 --trainer.batch_size=16"
NANO = (
    "--device=cpu --compile=False --dataset=made --eval_iters=2 --batch_size=8 --block_size=32 --n_layer=3 --n_head=4"
)
NANO += " --n_embd=64 --dtype=float32 --gradient_accumulation_steps=2 --eval_interval=30 --warmup_iters=5"
LIT = "--trainer.accelerator cpu --trainer.limit_val_batches 2 --trainer.limit_test_batches 2"
LIT += (
    " --trainer.limit_predict_batches 1 --trainer.enable_progress_bar false --trainer.logger false --data.batch_size 32"
)

PROGRAMS = (
    Program("mnist", "examples/mnist", "main.py", "--epochs 2 --no-accel --save-model",
            Fault("every weight starts at one number", "main.py", "model = Net().to(device)",
                  "model = Net().to(device)\n    for p in model.parameters(): nn.init.constant_(p, 0.01)",
                  ("US503",)), mnist("../data"), "--epochs 40 --no-accel"),
    Program("mnist_rnn", "examples/mnist_rnn", "main.py", "--epochs 2 --save-model",
            Fault("the scheduler lets the rate fall to 0", "main.py", "gamma=args.gamma", "gamma=0.0",
                  ("US301",)), mnist("../data"), "--epochs 40"),
    Program("vae", "examples/vae", "main.py", "--epochs 3 --no-accel",
            Fault("rate 1,000 times too high", "main.py", "lr=1e-3", "lr=1.0", ("US302", "US401", "US202")),
            mnist("../data"), "--epochs 77 --no-accel"),
    Program("word_language_model, LSTM", "examples/word_language_model", "main.py", f"{LM} --epochs 2",
            Fault("dropout of everything", "model.py", "self.drop = nn.Dropout(dropout)\n        self.encoder",
                  "self.drop = nn.Dropout(1.0)\n        self.encoder", ("US502", "US203")), words, f"{LM} --epochs 20"),
    Program("word_language_model, Transformer", "examples/word_language_model", "main.py",
            f"{LM} --model Transformer --use-optimizer --lr 0.001 --epochs 2",
            Fault("embeddings a thousand times too large", "model.py",
                  "initrange = 0.1\n        nn.init.uniform_(self.input",
                  "initrange = 100.0\n        nn.init.uniform_(self.input",
                  ("US204", "US205", "US102", "US201")), words,
            f"{LM} --model Transformer --use-optimizer --lr 0.001 --epochs 20"),
    Program("super_resolution", "examples/super_resolution", "main.py",
            "--upscale_factor 3 --batchSize 4 --nEpochs 4 --threads 0 --lr 0.001",
            Fault("biases that kill every unit", "model.py", "init.orthogonal_(self.conv4.weight)",
                  "init.constant_(self.conv1.bias, -10.0)", ("US202", "US502")), photographs,
            "--upscale_factor 3 --batchSize 4 --nEpochs 50 --threads 0 --lr 0.001"),
    Program("dcgan", "examples/dcgan", "main.py",
            "--dataset fake --workers 0 --batchSize 16 --ngf 8 --ndf 8 --niter 1 --manualSeed 1",
            Fault("the generator gets no gradient", "main.py", "output = netD(fake)\n",
                  "output = netD(fake.detach())\n", ("US501", "no gradient came back")),
            longer="--dataset fake --workers 0 --batchSize 16 --ngf 8 --ndf 8 --niter 8 --manualSeed 1"),
    Program("minGPT", "minGPT", "projects/chargpt/chargpt.py", f"{GPT} --trainer.max_iters=60",
            Fault("weights 100 times too large", "mingpt/model.py", "mean=0.0, std=0.02)", "mean=0.0, std=2.0)",
                  ("US204", "US102", "US101")), characters, f"{GPT} --trainer.max_iters=1000"),
    Program("nanoGPT", "nanoGPT", "train.py", f"{NANO} --max_iters=60",
            Fault("rate 0", "train.py", "param_group['lr'] = lr", "param_group['lr'] = 0.0", ("US301",)), tokens,
            f"{NANO} --max_iters=500"),
    Program("Lightning, autoencoder", "pytorch-lightning/examples/pytorch/basics", "autoencoder.py",
            f"{LIT} --trainer.max_epochs 1 --trainer.limit_train_batches 60",
            Fault("the optimizer has the decoder only", "autoencoder.py", "self.parameters()",
                  "self.decoder.parameters()", ("US301", "US303")), lightning_mnist,
            f"{LIT} --trainer.max_epochs 1 --trainer.limit_train_batches 1000"),
    Program("Lightning Fabric, image classifier", "pytorch-lightning/examples/fabric/image_classifier",
            "train_fabric.py", "--epochs 2 --save-model",
            Fault("sigmoids far from 0", "train_fabric.py", "x = self.conv2(x)\n        x = F.relu(x)",
                  "x = self.conv2(x)\n        x = torch.sigmoid(x + 20)", ("US201", "US101")),
            mnist("../../../Datasets"), "--epochs 40"),
    Program("Lightning Fabric, k-fold", "pytorch-lightning/examples/fabric/kfold_cv", "train_fabric.py",
            "--epochs 1 --folds 3",
            Fault("all optimizers hold the first model", "train_fabric.py", "optim.Adadelta(model.parameters()",
                  "optim.Adadelta(models[0].parameters()",
                  ("US303", "no optimizer that made a step has its parameters")), mnist("../../../Datasets"),
            "--epochs 4 --folds 3"),
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What a run leaves: exit code, output, files and findings."""

    code: int
    output: str
    error: str
    files: dict[str, str]
    found: tuple[str, ...]


def run(
    program: Program, checkouts: Path, options: str, *, watched: bool, fault: bool = False, clock: tuple[str, ...] = ()
) -> Outcome:
    """Run a program in a new copy, always at the same place; `clock` is the script that runs it, if one does."""
    place = Path(tempfile.gettempdir()) / "watched-program"
    shutil.rmtree(place, ignore_errors=True)
    root = place / program.folder
    shutil.copytree(checkouts / program.folder, root)
    script = root / program.script
    if fault:
        file = root / program.fault.file
        text = file.read_text()
        assert program.fault.before in text, f"{program.name}: its fault does not fit this checkout"
        file.write_text(text.replace(program.fault.before, program.fault.after))
    program.data(script.parent)
    (script.parent / "results").mkdir(exist_ok=True)
    before = set(place.rglob("*"))
    verdict = place.parent / "watched-program.json"
    verdict.unlink(missing_ok=True)
    command = [sys.executable]
    if watched:
        command += ["-m", "unstuck", "--json", str(verdict)]
    command += [*clock, script.name, *options.split()]
    home = place.parent / "watched-program-home"  # for caches, such as that of the fonts
    home.mkdir(exist_ok=True)
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(home), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    environment["PYTHONPATH"] = os.pathsep.join(map(str, (root, *SOURCES)))
    result = subprocess.run(command, cwd=script.parent, env=environment, capture_output=True, text=True)
    made = {path for path in set(place.rglob("*")) - before if path.is_file() and path.suffix not in UNCOMPARED}
    return Outcome(
        result.returncode,
        TIMES.sub("", result.stdout),
        result.stderr,
        {path.relative_to(place).as_posix(): digest(path) for path in made},
        found_in(verdict),
    )


def digest(path: Path) -> str:
    """The content of a file; of an archive, as torch.save writes it, the content of its members."""
    if not zipfile.is_zipfile(path):
        return hashlib.sha256(path.read_bytes()).hexdigest()
    members = []
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if not name.endswith(".data/serialization_id"):  # a hash of the others
                content = archive.read(name)
                members.append(
                    (name, meaning(content) if name.endswith(".pkl") else hashlib.sha256(content).hexdigest())
                )
    return str(sorted(members))


def meaning(content: bytes) -> str:
    """A pickle with its strings in place: whether two equal strings were one object says nothing about the object."""
    memo: dict[int, object] = {}
    found: list[object] = []
    others = 0
    for operation, argument, _ in pickletools.genops(content):
        if operation.name in ("BINPUT", "LONG_BINPUT"):
            is_string = found[-1] if isinstance(found[-1], str) else None
            others += is_string is None
            memo[argument] = is_string or ("object", others)
        elif operation.name in ("BINGET", "LONG_BINGET"):
            found.append(memo[argument])
        else:
            found.append(argument if operation.name == "BINUNICODE" else (operation.name, argument))
    return hashlib.sha256(str(found).encode()).hexdigest()


def found_in(verdict: Path) -> tuple[str, ...]:
    """The rules of all errors and warnings, of all models."""
    diagnoses = [json.loads(path.read_text()) for path in verdict.parent.glob(f"{verdict.stem}*.json")]
    found = {f["rule"] for d in diagnoses for f in d["findings"] if f["severity"] != "note"}
    for path in verdict.parent.glob(f"{verdict.stem}*.json"):
        path.unlink()
    return tuple(sorted(found))


def is_in(printed: str, name: str) -> bool:
    """Whether a rule was printed as an error or a warning, or other words at all, in whatever lines."""
    words = rf"{name} (error|warning)" if name.startswith("US") else re.escape(name)
    return bool(re.search(words, " ".join(printed.split())))


def scripts(report: Report, checkouts: Path) -> None:
    """Every program, whole and with its fault."""
    for program in PROGRAMS:
        for fault in (False, True):
            if not report.wants(program=program.name, fault=program.fault.name if fault else "none"):
                continue
            plain = run(program, checkouts, program.options, watched=False, fault=fault)
            watched = run(program, checkouts, program.options, watched=True, fault=fault)
            verdict = watched.error[watched.error.rfind("\nunstuck: ") :]
            report.add(
                program=program.name,
                fault=program.fault.name if fault else "none",
                ran=plain.code == watched.code and (fault or plain.code == 0),
                same=(plain.code, plain.output, plain.files) == (watched.code, watched.output, watched.files),
                files=len(plain.files),
                found=" ".join(watched.found),
                named=any(name in watched.found or is_in(watched.error, name) for name in program.fault.names)
                if fault
                else "",
                accused=bool(watched.found),
                verdict=verdict.strip()[:2000],
            )


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--programs", type=Path, required=True, metavar="FOLDER", help="folder with the checkouts")
    options: argparse.Namespace = parser.parse_args(argv)
    report = Report("watch", options, key=("program", "fault"), seeds=[], settings={})
    scripts(report, options.programs.resolve())
    report.finish()


if __name__ == "__main__":
    main()
