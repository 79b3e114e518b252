"""Measures a recipe's training step: python tools/benchmark.py --modality=vision --help."""

import json
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow starts: its banner
from absl import app, flags, logging  # noqa: E402

CONFIGS = Path(__file__).resolve().parent.parent / "configs" / "pretrain"
UNITS = {"vision": "patches", "speech": "frames", "text": "tokens"}

FLAGS = flags.FLAGS
flags.DEFINE_list(
    "modality",
    None,
    "What to measure: vision, speech or text; with --serving several.",
    required=True,
)
flags.DEFINE_string("size", "tiny", "Which recipe: configs/pretrain/MODALITY_SIZE.yaml.")
flags.DEFINE_string("config", None, "Recipe, a YAML file, instead of --size.")
flags.DEFINE_list(
    "batch", None, "Examples in a batch; with --serving several numbers. Default: the recipe's."
)
flags.DEFINE_enum(
    "precision", None, ["float32", "bfloat16", "auto"], "Numbers. Default: the recipe's."
)
flags.DEFINE_enum(
    "xla", None, ["true", "false", "parts", "auto"], "Compiler. Default: the recipe's."
)
flags.DEFINE_string(
    "data", None, "SOURCE to read. Default: files of the usual size, made for the measurement."
)
flags.DEFINE_integer("steps", 20, "How often a step is timed.", lower_bound=1)
flags.DEFINE_multi_string(
    "set", [], "A key of the recipe, as in --set model.num_layers=2; may be repeated."
)
flags.DEFINE_bool(
    "serving",
    False,
    "Measure the answers of exported models of --size instead, base or tiny, for --batch=1,8,32 "
    "where it is not given, beside the same weights in PyTorch: one table of all modalities.",
)
flags.DEFINE_enum(
    "peer",
    None,
    ["torch"],
    "Compare the step with the same work in PyTorch on Hugging Face's encoders, in all settings of "
    "both: compiled (ours in parts, too) and not, or what --xla says; float32 and bfloat16, or "
    "what --precision says.",
)
flags.DEFINE_bool(
    "json", False, "Print one JSON object instead of a table; with --serving one a modality."
)
flags.register_validator(
    "modality", lambda names: set(names or ()) <= set(UNITS), f"one of {', '.join(UNITS)}"
)
flags.register_validator(
    "batch",
    lambda sizes: all(size.isdecimal() and int(size) > 0 for size in sizes or ()),
    "numbers from 1 on",
)
# What is measured of --serving are a size's weights, in float32, beside PyTorch's.
ONLY_STEPS = ("config", "precision", "xla", "data", "set", "peer")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument: {argv[1]}")
    useless = [name for name in ONLY_STEPS if FLAGS[name].present]
    if FLAGS.serving and useless:
        raise app.UsageError(f"--{useless[0]} is of no use to --serving")
    if not FLAGS.serving and (len(FLAGS.modality) != 1 or len(FLAGS.batch or ["1"]) != 1):
        raise app.UsageError("several modalities or batches are only for --serving")
    logging.set_verbosity(logging.WARNING)
    # Imported late, so that --help and a wrong flag answer at once.
    from d2v_tf.errors import UserError

    try:
        if FLAGS.serving:
            benchmark_serving()
            return
        with tempfile.TemporaryDirectory() as folder:
            recipe = open_recipe(folder)
            result = benchmark(recipe)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    if FLAGS.json:
        print(json.dumps(result))
    elif FLAGS.peer:
        print_comparison(result)
    else:
        print_table(result)


def benchmark_serving():
    """One modality after another; each is printed when it is measured."""
    from d2v_tf.benchmark.serving import SIZES, markdown_rows, measure_serving
    from d2v_tf.benchmark.timing import device_name
    from d2v_tf.errors import UserError

    if FLAGS.size not in SIZES:
        raise UserError(f"--serving: --size is {FLAGS.size!r}, not one of {', '.join(SIZES)}.")
    batches = [int(size) for size in FLAGS.batch or (1, 8, 32)]
    for number, modality in enumerate(FLAGS.modality):
        result = measure_serving(modality, FLAGS.size, batches, FLAGS.steps)
        if FLAGS.json:
            print(json.dumps(result), flush=True)
            continue
        heading = f"{FLAGS.size}, float32, {result['threads']} threads of {device_name()}\n"
        lines = markdown_rows(result, heading=number == 0)
        print(*([heading] if number == 0 else []), *lines, sep="\n", flush=True)
        loads = f"load average {result['load'][0]:.1f} before, {result['load'][1]:.1f} after"
        print(f"{modality}: {result['parameters']:,} parameters, {loads}", file=sys.stderr)


def benchmark(recipe):
    from d2v_tf.benchmark.compare import compare
    from d2v_tf.benchmark.step import measure
    from d2v_tf.schema.common import COMPILERS

    if FLAGS.peer:
        precisions = [p for p in ("float32", "bfloat16") if FLAGS.precision in (None, "auto", p)]
        compilers = [x for x in COMPILERS if FLAGS.xla in (None, "auto", str(x).lower())]
        return compare(recipe, FLAGS.steps, precisions, compilers)
    return measure(recipe, FLAGS.steps)


def open_recipe(folder):
    """The recipe that the flags say, with examples written into `folder` unless --data has some."""
    from d2v_tf.benchmark.examples import write_examples
    from d2v_tf.config import load_recipe

    (modality,), (batch,) = FLAGS.modality, FLAGS.batch or [None]
    flags_given = {"batch_size": batch, "precision": FLAGS.precision, "xla": FLAGS.xla}
    overrides = [f"{key}={value}" for key, value in flags_given.items() if value is not None]
    if modality == "speech":
        overrides.append("data.buckets=1")  # batches of one shape
    overrides += FLAGS.set
    config = FLAGS.config or recipe_of(modality, FLAGS.size)
    recipe = load_recipe(config, overrides, modality)
    source = FLAGS.data
    if source is None and not any(setting.startswith("data.source=") for setting in FLAGS.set):
        source = write_examples(recipe, folder)
    if source is not None:
        overrides.append(f"data.source={json.dumps(source)}")  # YAML would read on in it
    return load_recipe(config, overrides, modality)


def recipe_of(modality, size):
    """The path of a recipe that comes along."""
    from d2v_tf.config import ConfigError

    sizes = sorted(path.stem.split("_")[1] for path in CONFIGS.glob(f"{modality}_*.yaml"))
    if size not in sizes:
        raise ConfigError(f"--size: {size!r} is not one of {', '.join(sizes)}. See --config.")
    return str(CONFIGS / f"{modality}_{size}.yaml")


def print_table(result):
    from rich.table import Table

    from d2v_tf.console import open_console
    from d2v_tf.schema.common import COMPILERS

    step, with_input = result["step"], result["step_with_input"]
    compiler = COMPILERS[result["xla"]]
    shapes = ", ".join(f"{name} {shape}" for name, shape in result["batch"].items())
    rows = {
        "model": f"{result['parameters']:,} parameters, {result['precision']}, {compiler}",
        "machine": f"{result['device']}, {result['cores']} cores",
        "data": result["data"],
        "batch": shapes,
        "to the first step": f"{result['seconds_to_first_step']:.1f} s",
        "step": f"{_milliseconds(step)}",
        "step with input": f"{_milliseconds(with_input)}",
        "speed": f"{result['examples_per_second']:,.1f} examples/s, "
        f"{result['positions_per_second']:,.0f} {UNITS[result['modality']]}/s",
        "input alone": f"{result['input']['examples_per_second']:,.1f} examples/s, "
        f"{1000 * result['input']['cpu_seconds_per_batch']:,.1f} ms of CPU a batch",
        "peak memory": ", ".join(
            f"{place} {size / 2**30:.2f} GiB" for place, size in result["peak_memory"].items()
        ),
        "parts of a step": "differences of medians; a small one may come out below 0",
        **{f"  {name}": f"{share:.0%}" for name, share in result["parts"].items()},
    }
    table = Table.grid(padding=(0, 2))
    for name, value in rows.items():
        table.add_row(name, value)
    open_console().print(table)


def print_comparison(result):
    from rich.table import Table

    from d2v_tf.console import open_console

    console = open_console()
    shapes = ", ".join(f"{name} {shape}" for name, shape in result["batch"].items())
    rates = ", ".join(f"{name} {rate / 1e9:,.0f}" for name, rate in result["matrix_rate"].items())
    console.print(
        f"{result['modality']}, {result['parameters']:,} parameters; {shapes}\n"
        f"{result['device']}, {result['threads']} threads, load average {result['load']:.1f}\n"
        f"{result['flops']['ours'] / 1e9:,.0f} GFLOP an update; matrices of 2048, GFLOP/s: {rates}"
    )
    table = Table("", "setting", "ms", "middle half", "GFLOP/s", "of matrices", box=None)
    table.add_column("first, s")
    table.add_column("memory, GiB")
    for row in result["settings"]:
        median, low, high = (1000 * row["step"][key] for key in ("median", "low", "high"))
        table.add_row(
            {"ours": "d2v_tf", "torch": "PyTorch"}[row["side"]],
            row["setting"],
            f"{median:,.0f}",
            f"{low:,.0f} to {high:,.0f}",
            f"{row['flops_per_second'] / 1e9:,.0f}",
            f"{row['share_of_matrix_rate']:.0%}",
            f"{row['seconds_to_first_step']:.1f}",
            f"{row['peak_memory'] / 2**30:.2f}" if "peak_memory" in row else "",
        )
    console.print(table)
    ratio, known = result["ratio"], result["memory_ratio"] is not None
    console.print(
        "PyTorch's time over ours: "
        + ", ".join(f"{name} {value:.2f}" for name, value in ratio.items())
        + (f"; our memory over PyTorch's {result['memory_ratio']:.2f}" if known else "")
    )


def _milliseconds(timing):
    median, low, high = (1000 * timing[name] for name in ("median", "low", "high"))
    return f"{median:,.1f} ms ({low:,.1f} to {high:,.1f}, the middle half)"


if __name__ == "__main__":
    app.run(main)
