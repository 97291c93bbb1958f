"""`unstuck` on the training scripts of fifteen repositories, unmodified: are its findings true?

Each script runs under it, alone, in a new copy of its repository, until it ends or for `--limit` seconds; then it
gets Ctrl-C, and the verdict follows. Scripts that cannot run here (they download, need another version of a library or
a GPU) have `measured` 0 and are not counted. Fashion-MNIST stands in for MNIST. `found`: errors and warnings of the
verdict. `defect`: what is wrong in the script, in words. We looked for it in the code and the output of the scripts
that had a finding, and not in the others: the file tells which findings are true, and not which defects are missed.
`accused`: there is a finding, and no defect that it describes.

The checkouts are not part of the project::

    git clone https://github.com/eriklindernoren/PyTorch-GAN CHECKOUTS/PyTorch-GAN
    git clone https://github.com/yunjey/pytorch-tutorial CHECKOUTS/pytorch-tutorial
    git clone https://github.com/vwxyzjn/cleanrl CHECKOUTS/cleanrl
    git clone https://github.com/jcjohnson/pytorch-examples CHECKOUTS/pytorch-examples
    git clone https://github.com/MorvanZhou/PyTorch-Tutorial CHECKOUTS/PyTorch-Tutorial
    git clone https://github.com/graykode/nlp-tutorial CHECKOUTS/nlp-tutorial
    git clone https://github.com/hunkim/PyTorchZeroToAll CHECKOUTS/PyTorchZeroToAll
    git clone https://github.com/spro/practical-pytorch CHECKOUTS/practical-pytorch
    git clone https://github.com/karpathy/makemore CHECKOUTS/makemore
    git clone https://github.com/locuslab/TCN CHECKOUTS/TCN
    git clone https://github.com/rtqichen/torchdiffeq CHECKOUTS/torchdiffeq
    git clone https://github.com/tonyduan/normalizing-flows CHECKOUTS/normalizing-flows
    git clone https://github.com/greydanus/hamiltonian-nn CHECKOUTS/hamiltonian-nn
    git clone https://github.com/philipperemy/n-beats CHECKOUTS/n-beats
    git clone https://github.com/tanelp/tiny-diffusion CHECKOUTS/tiny-diffusion
    pip install torchvision matplotlib tensorboard tyro stable-baselines3 autograd imageio
    pip install "gymnasium[classic-control]<1"
    python benchmarks/watch_repositories.py --checkouts CHECKOUTS --images FASHION_MNIST --threads 1
"""

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from _report import SOURCES, Report, arguments

TWO_SOFTMAXES = "a softmax before CrossEntropyLoss"
TANH_LOGITS = "CrossEntropyLoss reads the states of an RNN, which are between -1 and 1"
ONE_STEP = "of one direction it uses the first step only"
NOT_TRAINED = "its loss ends near that of equal probabilities"
DEFECTS = {
    "acgan.py": (TWO_SOFTMAXES, "US601"),
    "sgan.py": (TWO_SOFTMAXES, "US601"),
    "07_diabets_logistic.py": ("its loss ends at that of a constant answer", "US301"),
    "11_1_toy_inception_mnist.py": ("two convolutions without an activation between them, twice", "US507"),
    "12_2_hello_rnn.py": (TANH_LOGITS, "US601"),
    "12_3_hello_rnn_seq.py": (TANH_LOGITS, "US601"),
    "latent_ode.py": ("the gradient of its encoder fades to 0 through time", "US103 US201"),
    "bidirectional_recurrent_neural_network/main.py": (ONE_STEP, "US502"),
    "Bi-LSTM.py": (ONE_STEP, "US502"),
    "504_batch_normalization.py": ("one of its networks is made to fail without normalisation", "US302 US101 US201"),
    "Bi-LSTM(Attention).py": ("a view of the last states joins those of two samples", "US506"),
    "BERT.py": ("attention makes a new Linear in each forward pass", "US504 US203"),
    "ddpm.py": ("its data do not vanish: after its 50 steps, the product of all alphas is 0.6", "US711"),
    "Transformer.py": (NOT_TRAINED, "US101"),
    "Transformer(Greedy_decoder).py": (NOT_TRAINED, "US101"),
}
"""Defects by the name of the script, with the rules that describe them."""
ROLLOUTS = "c51 ddpg_continuous_action dqn ppo ppo_continuous_action pqn rpo_continuous_action sac_continuous_action"
ROLLOUTS += " td3_continuous_action"
MAKEMORE = ("transformer", "rnn", "gru", "mlp", "bow", "bigram")
OTHERS = (
    ("PyTorchZeroToAll", "0[5-9]*.py", ""),
    ("PyTorchZeroToAll", "1[0-4]*.py", ""),
    ("practical-pytorch", "char-rnn-classification/train.py", ""),
    *(("makemore", "makemore.py", f"--type {kind} -n 0 -o made") for kind in MAKEMORE),
    ("TCN", "TCN/adding_problem/add_test.py", "--cuda"),  # which turns CUDA off
    ("TCN", "TCN/copy_memory/copymem_test.py", "--cuda"),
    ("TCN", "TCN/poly_music/music_test.py", "--cuda --data Nott"),
    *(("torchdiffeq", f"examples/{name}.py", "") for name in ("ode_demo", "latent_ode", "cnf")),
    ("normalizing-flows", "examples/ex_*d.py", ""),
    ("hamiltonian-nn", "experiment-spring/train.py", "--verbose"),
    ("n-beats", "examples/trainer_pytorch.py", "--task dummy --disable-plot"),
    ("tiny-diffusion", "ddpm.py", ""),
)
"""Repositories that are copied as a whole: their scripts, and the options of these."""
WHOLE = {"cleanrl", *(repository for repository, _scripts, _options in OTHERS)}
IMAGES = {
    "PyTorch-GAN": ("../../data/mnist",),
    "pytorch-tutorial": ("../../data",),
    "PyTorch-Tutorial": ("mnist",),
    "PyTorchZeroToAll": ("data", "mnist_data"),
}
"""Where the scripts of a repository look for MNIST."""


def scripts(checkouts: Path) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """The scripts that train on MNIST, on data that they make, or in simple environments, with their options."""
    for path in sorted(checkouts.glob("PyTorch-GAN/implementations/*/*.py")):
        if path.stem == path.parent.name and "mnist" in path.read_text():
            yield path, ("--n_epochs", "1")
    for path in sorted(checkouts.glob("pytorch-tutorial/tutorials/0[1-3]*/*/main.py")):
        if "style" not in path.parent.name and path.parent.name != "pytorch_basics":
            yield path, ()
    for name in ROLLOUTS.split():
        yield checkouts / f"cleanrl/cleanrl/{name}.py", ("--env-id", "Pendulum-v1") if "continuous" in name else ()
    for path in sorted(checkouts.glob("pytorch-examples/nn/*.py")):
        yield path, ()
    for path in sorted(checkouts.glob("PyTorch-Tutorial/tutorial-contents/[345]*.py")):
        yield path, ()
    for path in sorted(checkouts.glob("nlp-tutorial/[1-5]*/*.py")):
        yield path, ()
    for repository, names, options in OTHERS:
        for path in sorted((checkouts / repository).glob(names)):
            yield path, tuple(options.split())


def write_images(source: Path, folder: Path) -> None:
    """Unpacked files in the layout of torchvision."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in source.glob("*-ubyte.gz"):
        (raw / file.stem).write_bytes(gzip.decompress(file.read_bytes()))


def watched(script: Path, options: tuple[str, ...], checkouts: Path, images: Path, limit: float) -> tuple[int, str]:
    """Exit code and standard error of a script under `unstuck`; its diagnoses are in the folder of the copy."""
    repository = script.relative_to(checkouts).parts[0]
    root = Path(tempfile.gettempdir()) / "watched-repository"
    shutil.rmtree(root, ignore_errors=True)
    folder = root / script.parent.relative_to(checkouts)
    kept = checkouts / repository if repository in WHOLE else script.parent
    shutil.copytree(kept, root / kept.relative_to(checkouts), ignore=shutil.ignore_patterns(".git", "docs", "*.gif"))
    for place in IMAGES.get(repository, ()):
        write_images(images, (folder / place).resolve())
    path = os.pathsep.join(map(str, (*SOURCES, folder, root / repository, root / repository / "src")))
    environment = dict(os.environ, PYTHONPATH=path, MPLBACKEND="Agg", CUDA_VISIBLE_DEVICES="")
    environment["OMP_NUM_THREADS"] = str(torch.get_num_threads())
    command = [sys.executable, "-m", "unstuck", "--json", str(root / "found.json"), script.name, *options]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=folder, env=environment, text=True, **pipes) as process:  # type: ignore[call-overload]
        try:
            _, error = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            _, error = process.communicate(timeout=limit)
    return process.returncode, error


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--checkouts", type=Path, required=True, metavar="FOLDER", help="folder with the repositories")
    parser.add_argument(
        "--images", type=Path, required=True, metavar="FOLDER", help="folder with Fashion-MNIST's files"
    )
    parser.add_argument("--limit", type=float, default=25.0, metavar="SECONDS", help="for each script (default: 25)")
    options = parser.parse_args(argv)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs would ignore it
    checkouts = options.checkouts.resolve()
    settings = {"limit": options.limit}
    report = Report("watch_repositories", options, key=("repository", "script"), seeds=[], settings=settings)
    every = list(scripts(checkouts))
    for path, choices in every[::10] if options.quick else every:
        repository, *place = path.relative_to(checkouts).parts
        name = "/".join(place[-2:]) if path.name in ("main.py", "train.py") else path.name
        name += f" {choices[1]}" if repository == "makemore" else ""
        if not report.wants(repository=repository, script=name):
            continue
        code, error = watched(path, choices, checkouts, options.images, options.limit)
        files = sorted((Path(tempfile.gettempdir()) / "watched-repository").glob("found*.json"))
        diagnoses = [json.loads(file.read_text()) for file in files]
        found = dict.fromkeys(f["rule"] for d in diagnoses for f in d["findings"] if f["severity"] != "note")
        defect, rules = DEFECTS.get(name, ("", ""))
        report.add(
            repository=repository,
            script=name,
            code=code,
            models=len(diagnoses),
            measured=sum(1 + len(d["earlier"]) for d in diagnoses),
            found=" ".join(found),
            defect=defect,
            accused=bool(set(found) - set(rules.split())),
            bugs="please report" in error,
        )
    report.finish()


if __name__ == "__main__":
    main()
