"""`auto` follows the hardware; a word of the user's is taken as it is."""

import io

import pytest

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
        ((), "", "float32", "parts"),
        ((), "avx512_vnni", "float32", "parts"),
        ((), "avx512_bf16", "bfloat16", "parts"),
        ((), "amx_tile amx_bf16", "bfloat16", "parts"),
        (("GPU",), "", "bfloat16", True),
        (("TPU",), "", "bfloat16", True),
        (("GPU",), "avx512_bf16", "bfloat16", True),
    ],
)
def test_auto_is_what_the_machine_is_fastest_with(
    machine, devices, flags, expected_precision, expected_xla
):
    machine(devices, flags)
    assert precision.resolve_precision("auto") == expected_precision
    assert precision.resolve_xla("auto") == expected_xla


@pytest.mark.parametrize("capability", [(7, 5), None])
def test_an_old_gpu_has_no_bfloat16(machine, capability):
    machine(("GPU",), "avx512_bf16", capability)
    assert precision.resolve_precision("auto") == "float32"


@pytest.mark.parametrize("devices", [(), ("GPU",)])
@pytest.mark.parametrize("flags", ["", "avx512_bf16"])
def test_what_the_user_says_is_taken(machine, devices, flags):
    machine(devices, flags)
    for word in ("float32", "bfloat16"):
        assert precision.resolve_precision(word) == word
    for word in (True, False, "parts"):
        assert precision.resolve_xla(word) == word


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


@pytest.fixture
def no_gain_is_remembered():
    precision.bfloat16_gain.cache_clear()
    yield
    precision.bfloat16_gain.cache_clear()


@pytest.mark.parametrize(
    ("rounds", "gain"), [([2.0, 1.6, 1.9], 1.6), ([2.0, 0.5], 0.5), ([0.5], 0.5)]
)
def test_a_gain_is_what_every_round_finds(no_gain_is_remembered, monkeypatch, rounds, gain):
    left = list(rounds)
    monkeypatch.setattr(precision, "time_gain", lambda: left.pop(0))
    assert precision.bfloat16_gain() == gain and not left


def test_a_round_times_both():
    assert 0 < precision.time_gain(size=64, repeats=1) < float("inf")
