"""The commands as they are typed; the modules that do the work are imported when one is run."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from nnx.cli.options import Debug, DeviceName, Json

Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        show_default=False,
        help="iris, digits, profit, mnist, a .csv file, or a .npz file with x and y.",
    ),
]
Run = Annotated[
    str, typer.Argument(metavar="RUN", show_default=False, help="A directory of nnx train.")
]
EvaluationData = Annotated[
    str | None,
    typer.Option(
        metavar="DATA",
        help="What to test on.  [default: what training kept for the test]",
    ),
]


def _option(name: str, metavar: str, text: str, default: str) -> Any:
    """Return an option whose absence stays visible: --resume takes those from the run."""
    default_text = f"  [default: {default}]" if default else ""
    return typer.Option(name, metavar=metavar, show_default=False, help=text + default_text)


def devices(as_json: Json = False, debug: Debug = False) -> None:
    """List every device: what it is, or why it cannot be used here.

    Example:  nnx devices --json
    """
    from nnx.cli.devices import list_devices

    list_devices(as_json=as_json)


def train(
    data: Data,
    target: Annotated[
        str | None, _option("--target", "COLUMN", "The column of a .csv to learn.", "")
    ] = None,
    hidden: Annotated[
        str | None, _option("--hidden", "SIZES", "Sizes of the hidden layers, or none.", "16,16")
    ] = None,
    activation: Annotated[
        str | None, _option("--activation", "NAME", "Between the layers.", "relu")
    ] = None,
    loss: Annotated[
        str | None,
        _option("--loss", "NAME", "What to minimise.", "cross_entropy for classes, else mse"),
    ] = None,
    optimizer: Annotated[str | None, _option("--optimizer", "NAME", "How to step.", "adam")] = None,
    lr: Annotated[float | None, _option("--lr", "NUMBER", "Learning rate.", "0.001")] = None,
    batch_size: Annotated[
        int | None, _option("--batch-size", "ROWS", "Rows in one step.", "32")
    ] = None,
    epochs: Annotated[
        int | None, _option("--epochs", "N", "Passes over the data, in all.", "5")
    ] = None,
    validation_split: Annotated[
        float | None,
        _option("--validation-split", "PART", "Part of the rows to validate on.", "0"),
    ] = None,
    seed: Annotated[
        int | None, _option("--seed", "N", "Decides weights, shuffles and splits.", "0")
    ] = None,
    device: DeviceName = None,
    out: Annotated[
        str | None, _option("--out", "DIRECTORY", "Where to write.", "runs/ and the data's name")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out, exactly.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Train a network of dense layers and test it.

    Writes model.safetensors, checkpoint.safetensors (after each epoch), history.csv, config.json
    and curves.svg into --out, in place of those of an earlier run that is finished.

    One row in five of a file is kept for the test, unless a .npz brings x_test and y_test. The
    columns of a table, and a target of quantities, are standardised; bytes in a .npz become 0 to
    1. A target of words, or of whole numbers from 0 without a gap, is one of classes.

    Example:  nnx train digits --hidden 16,16 --device cpu --epochs 5

    Example:  nnx train houses.csv --target price --loss mse --epochs 50

    Example:  nnx train digits --epochs 10 --resume
    """
    from nnx.cli.training import train as run

    options = {
        "hidden": hidden, "activation": activation, "loss": loss, "optimizer": optimizer, "lr": lr,
        "batch_size": batch_size, "epochs": epochs, "validation_split": validation_split,
        "seed": seed,
    }  # fmt: skip
    run(data, target, options, named=device, out=out, resume=resume, as_json=as_json)


def evaluate(
    run: Run,
    data: EvaluationData = None,
    target: Annotated[
        str | None, _option("--target", "COLUMN", "The known column of a .csv.", "as in training")
    ] = None,
    device: DeviceName = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Test a trained network on data that it has not learned.

    Of the data it was trained on, only the rows kept for the test count; of a file that it never
    saw, all.

    Example:  nnx evaluate runs/digits --data digits
    """
    from nnx.cli.inference import evaluate as run_evaluation

    run_evaluation(run, data, target, device=device, as_json=as_json)


def predict(
    run: Run,
    input: Annotated[
        str,
        typer.Argument(
            metavar="INPUT", show_default=False, help="An image, a .csv, a .npy or a .npz file."
        ),
    ],
    device: DeviceName = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Tell the class of each row, with probabilities, or its value.

    An image is made grey and brought to the size that the network was trained on. For networks
    trained on digits or mnist, a digit that is dark on light is inverted, and one of another size
    is cropped, scaled and centred as MNIST's own were.

    Example:  nnx predict runs/digits image.png
    """
    from nnx.cli.inference import predict as run_prediction

    run_prediction(run, input, device=device, as_json=as_json)


def parity(
    model: Annotated[
        str,
        typer.Option(
            "--model", metavar="RUN", show_default=False, help="A directory of nnx train."
        ),
    ],
    devices: Annotated[
        str | None,
        _option(
            "--devices",
            "NAMES",
            "Two or more; the first is the reference.",
            "numpy,numba and cupy, where they are here",
        ),
    ] = None,
    data: Annotated[
        str | None, _option("--data", "DATA", "Other rows to train on.", "as in training")
    ] = None,
    steps: Annotated[int, typer.Option("--steps", metavar="N", help="Training steps.")] = 3,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Of dropout masks.")] = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Train on several devices and tell where they part.

    The steps, batches and seed are the same. Each layer's values, the loss, gradients and weights
    are compared with those of the first device: the largest absolute and relative difference, and
    that in units in the last place.

    Example:  nnx parity --model runs/digits --devices numpy,numba
    """
    from nnx.cli.parity import parity as run

    run(model, devices, data, steps, seed, as_json=as_json)


def doctor(as_json: Json = False, debug: Debug = False) -> None:
    """Look for what is broken, and say what mends it.

    Each line is good, or has the cause and what mends it. Exit status 1 where something that nnx
    needs is broken.

    Example:  nnx doctor --json
    """
    from nnx.cli.doctor import doctor as run

    raise typer.Exit(run(as_json=as_json))


def bench(
    suite: Annotated[
        str,
        typer.Argument(
            metavar="[SUITE]",
            show_default=False,
            help="ops, dense, train, overhead, compile, crossover, or all.  [default: all]",
        ),
    ] = "all",
    devices: Annotated[
        str | None,
        _option("--devices", "NAMES", "Of loops,numpy,numba,cupy.", "all that are here"),
    ] = None,
    peers: Annotated[
        str | None,
        _option(
            "--peers",
            "NAMES",
            "Of numpy,torch,torch-compile,jax; or none.",
            "numpy; if not quick torch and jax too, where installed",
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A few cases and rounds: under a minute.")
    ] = False,
    rounds: Annotated[
        int | None, _option("--rounds", "N", "Turns of each contestant.", "15, or 5 if quick")
    ] = None,
    profile: Annotated[
        str | None,
        _option(
            "--profile",
            "MODEL",
            "Instead: the kernels of one training step of a network, "
            "a directory of nnx train or sizes such as 784-16-16-10.",
            "",
        ),
    ] = None,
    report: Annotated[
        str | None, _option("--report", "DIRECTORY", "Write report.html and pictures.", "")
    ] = None,
    json_file: Annotated[
        str | None, _option("--json", "FILE", "Write the figures; - for stdout.", "")
    ] = None,
    debug: Debug = False,
) -> None:
    """Measure loops, vectors, compiled code and GPU.

    Side by side, on this machine. Each contestant is a process of its own and is checked to compute
    the same before it is timed; contestants take turns, and medians with their spread are reported.
    What cannot run here is listed with its reason.

    Example:  nnx bench --quick --report bench

    Example:  nnx bench dense --devices loops,numpy,numba --peers torch

    Example:  nnx bench --profile 784-16-16-10
    """
    if profile is not None:
        from nnx.cli.options import UsageError
        from nnx.cli.profiling import profile as run_profile

        others = {
            "--peers": peers,
            "--rounds": rounds,
            "--report": report,
            "--quick": quick or None,
        }
        if given := [option for option, value in others.items() if value is not None]:
            raise UsageError(f"--profile measures one network: it goes without {given[0]}.")

        run_profile(profile, devices, json_file)
        return
    from nnx.cli.bench import bench as run

    run(suite, devices=devices, peers=peers, quick=quick, rounds=rounds, report=report,
        json_file=json_file)  # fmt: skip


Output = Annotated[
    str | None,
    typer.Option("--output", "-o", metavar="FILE", show_default=False,
                 help="A .svg, .png or .pdf to write.  [default: in the run's directory]"),
]  # fmt: skip
Dark = Annotated[bool, typer.Option("--dark", help="On dark paper.")]


def graph(
    run: Run,
    output: Output = None,
    data: EvaluationData = None,
    target: Annotated[
        str | None, _option("--target", "COLUMN", "The known column of a .csv.", "as in training")
    ] = None,
    image: Annotated[
        int | None, _option("--image", "N", "Of this row alone.", "the first batch to test on")
    ] = None,
    device: DeviceName = None,
    dark: Dark = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Draw the computation graph with its values and gradients.

    Each tensor of the computation is a box with its values and its gradient in short.

    The network runs forward over some rows, and the loss backward. The .svg has tooltips with more
    figures, and is dark where the reader's system is.

    Example:  nnx graph runs/digits -o graph.svg
    """
    from nnx.cli.pictures import graph as draw

    draw(run, output=output, data=data, target=target, image=image, device=device, dark=dark,
         as_json=as_json)  # fmt: skip


def show(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="WHAT",
            show_default=False,
            help="weights, activations, history, confusion, roc or mistakes.  [default: weights]",
        ),
    ] = None,
    run: Annotated[
        str | None,
        typer.Argument(metavar="RUN", show_default=False, help="A directory of nnx train."),
    ] = None,
    output: Output = None,
    data: EvaluationData = None,
    target: Annotated[
        str | None, _option("--target", "COLUMN", "The known column of a .csv.", "as in training")
    ] = None,
    image: Annotated[
        int | None, _option("--image", "N", "For activations: which row.", "0")
    ] = None,
    device: DeviceName = None,
    dark: Dark = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Draw a picture of a run: weights, neurons, curves, mistakes.

    weights: each neuron of the first layer as an image, green positive, red negative. activations:
    one image, and each layer's neurons lit. history: the curves of training. confusion, roc: how
    classes are told apart. mistakes: the wrong answers that were surest.

    Example:  nnx show runs/digits -o weights.png

    Example:  nnx show activations runs/digits --image 7

    Example:  nnx show mistakes runs/digits --dark -o mistakes.svg
    """
    from nnx.cli.pictures import show as draw

    words = [word for word in (what, run) if word is not None]
    draw(words, output=output, data=data, target=target, image=image, device=device, dark=dark,
         as_json=as_json)  # fmt: skip
