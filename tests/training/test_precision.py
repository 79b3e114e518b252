"""`auto` follows the hardware; a word of the user's is taken as it is."""

import io

import pytest

from d2v_tf.schema.speech import SpeechModel
from d2v_tf.training import precision

FLAGS = "processor\t: 0\nflags\t\t: fpu sse4_2 avx2 avx512f {}\nbugs\t\t: \n"


@pytest.fixture
def machine(monkeypatch):
    """Makes TensorFlow see the accelerators, and Linux the processor flags, that it is told."""

    def make(devices=(), flags="", capability=(8, 0), gain=1.5):
        monkeypatch.setattr(
            precision.tf.config.experimental,
            "get_device_details",
            lambda gpu: {"compute_capability": capability} if capability else {},
        )
        monkeypatch.setattr(
            precision.tf.config,
            "get_visible_devices",
            lambda kind=None: [d for d in devices if d == kind],
        )
        opened = lambda *args, **kwargs: io.StringIO(FLAGS.format(flags))  # noqa: E731
        monkeypatch.setattr(precision, "open", opened, raising=False)
        monkeypatch.setattr(precision, "bfloat16_gain", lambda: gain)

    return make


@pytest.mark.parametrize(
    ("devices", "flags", "expected_precision", "expected_xla"),
    [
        ((), "", "float32", True),
        ((), "avx512_vnni", "float32", True),
        ((), "avx512_bf16", "bfloat16", False),
        ((), "amx_tile amx_bf16", "bfloat16", False),
        (("GPU",), "", "bfloat16", True),
        (("TPU",), "", "bfloat16", True),
        (("GPU",), "avx512_bf16", "bfloat16", True),
    ],
)
def test_auto_is_what_the_machine_is_fastest_with(
    machine, devices, flags, expected_precision, expected_xla
):
    machine(devices, flags)
    numbers = precision.resolve_precision("auto")
    assert numbers == expected_precision
    assert precision.resolve_xla("auto", numbers, model()) is expected_xla


@pytest.mark.parametrize("capability", [(7, 5), None])
def test_an_old_gpu_has_no_bfloat16(machine, capability):
    machine(("GPU",), "avx512_bf16", capability)
    assert precision.resolve_precision("auto") == "float32"


def model(**rates):
    """A recipe's `model` group."""
    return SpeechModel(num_layers=1, hidden_dim=8, num_heads=1, intermediate_dim=8, **rates)


@pytest.mark.parametrize("devices", [(), ("GPU",)])
@pytest.mark.parametrize("flags", ["", "avx512_bf16"])
def test_what_the_user_says_is_taken(machine, devices, flags):
    machine(devices, flags)
    for word in ("float32", "bfloat16"):
        assert precision.resolve_precision(word) == word
        assert precision.resolve_xla(True, word, model(dropout=0.1)) is True
        assert precision.resolve_xla(False, word, model()) is False


def test_float32_on_a_cpu_with_bfloat16_is_still_compiled(machine):
    machine(flags="avx512_bf16")
    assert precision.resolve_xla("auto", "float32", model()) is True


@pytest.mark.parametrize("name", ["dropout", "attention_dropout", "feature_dropout"])
def test_dropout_is_left_to_the_graph_on_a_cpu_and_compiled_elsewhere(machine, name):
    machine()
    assert precision.resolve_xla("auto", "float32", model(**{name: 0.1})) is False
    machine(("GPU",))
    assert precision.resolve_xla("auto", "float32", model(**{name: 0.1})) is True


def test_a_system_without_cpuinfo_has_no_bfloat16(machine, monkeypatch):
    machine()

    def missing(*args, **kwargs):
        raise FileNotFoundError

    monkeypatch.setattr(precision, "open", missing, raising=False)
    assert precision.resolve_precision("auto") == "float32"


def test_a_processor_that_lists_no_flags_has_no_bfloat16(machine, monkeypatch):
    machine()
    arm = "processor\t: 0\nFeatures\t: fp asimd bf16\n"
    monkeypatch.setattr(precision, "open", lambda *a, **k: io.StringIO(arm), raising=False)
    assert precision.resolve_precision("auto") == "float32"


def test_instructions_that_are_no_faster_are_not_used(machine):
    machine(flags="avx512_bf16", gain=0.6)
    assert precision.resolve_precision("auto") == "float32"


def test_replicas_on_cpus_do_not_depend_on_what_each_measures(machine):
    machine(flags="avx512_bf16")
    assert precision.resolve_precision("auto", replicas=2) == "float32"
    machine(("GPU",))
    assert precision.resolve_precision("auto", replicas=2) == "bfloat16"


def test_the_gain_is_measured_once():
    gain = precision.bfloat16_gain()
    assert 0.01 < gain < 100 and precision.bfloat16_gain() == gain


def test_every_precision_has_a_keras_policy():
    assert precision.POLICIES == {"float32": "float32", "bfloat16": "mixed_bfloat16"}
