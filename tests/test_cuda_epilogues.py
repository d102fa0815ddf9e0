"""What is done with a product: by cuBLASLt where that is right, else by kernels."""

import numpy as np
import pytest

from nnx.kernels import cuda_machine, products_gpu
from nnx.kernels.cuda_matrices import Matrices
from tests.cublaslt_on_cpu import RELU, decode, encode
from tests.tracing import outputs_for, run_cuda

BIASED = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16}


def stored(values, dtype):
    """Return numbers as they are in memory."""
    return encode(values, True) if dtype == "bfloat16" else values.astype(dtype)


def biased(machine, dtype, epilogue):
    """Return a product of a 5 by 4 and a 4 by 70 matrix and a bias, each of a type; its result."""
    rng = np.random.default_rng(0)
    given = [stored(rng.normal(size=n), dtype) for n in ((5, 4), (4, 70), (70,))]
    x, weight, bias = (decode(a, dtype == "bfloat16") for a in given)
    places = [machine.memory(a.nbytes) for a in given]
    for place, a in zip(places, given, strict=True):
        machine.upload(place.address, a)
    out = machine.memory(5 * 70 * given[0].itemsize)
    made = Matrices(
        dtype, 1, 5, 4, 70, places[0].address, False, 4, 20, places[1].address, False, 70, 280,
        out.address, dtype, "float32", epilogue, places[2].address,
    )  # fmt: skip
    wanted = x @ weight + bias
    return made, np.maximum(wanted, 0) if epilogue == "relu_bias" else wanted, (places, out)


def found_in(machine, made):
    n = made.m * made.n
    words = machine.download(made.out, -(-n * BIASED[made.dtype]().itemsize // 8))
    found = words.view(BIASED[made.dtype])[:n].reshape(made.m, made.n)
    return decode(found, made.dtype == "bfloat16")


ROUNDING = {"float32": 1e-6, "float16": 6e-3, "bfloat16": 5e-2}


@pytest.mark.parametrize("epilogue", ["bias", "relu_bias"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_an_epilogue_that_cublaslt_has_not_is_a_kernel(dtype, epilogue, lt, host, machine):
    lt.has_epilogues = False
    made, wanted, (places, out) = biased(machine, dtype, epilogue)
    for _ in range(2):
        machine.multiply(made)
        np.testing.assert_allclose(found_in(machine, made), wanted, atol=ROUNDING[dtype])
    n_searched = lt.calls.count("cublasLtMatmulAlgoGetHeuristic")
    assert n_searched == 2  # with the epilogue, and without; the second time neither
    graph = machine.capture(lambda: machine.multiply(made))
    machine.clear(out.address, 8)
    # NaN of a factor stays in its row.
    machine.upload(places[0].address, stored(np.array([np.nan]), dtype))
    graph()
    assert np.isnan(found_in(machine, made)[0]).all()
    np.testing.assert_allclose(found_in(machine, made)[1:], wanted[1:], atol=ROUNDING[dtype])


def test_a_product_that_cublaslt_has_not_is_refused(lt, host, machine):
    made, _, held = biased(machine, "float32", "relu_bias")
    lt.algorithms = 0
    with pytest.raises(products_gpu.NoAlgorithmError, match="epilogue none"):
        machine.multiply(made)
    assert held


def without_nan(lt, monkeypatch):
    """Let relu take NaN for 0, as where it is the larger of two numbers."""
    whole = lt._epilogue

    def epilogue(op, *given):
        out = whole(op, *given)
        return np.nan_to_num(out) if lt.get(op, 7) & RELU else out

    monkeypatch.setattr(lt, "_epilogue", epilogue)


@pytest.mark.parametrize("loses", [False, True], ids=["keeps", "loses"])
@pytest.mark.parametrize("transposed", [False, True], ids=["x", "x.T"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_products_keep_nan(dtype, transposed, loses, lt, host, machine, monkeypatch):
    if loses:
        without_nan(lt, monkeypatch)
    made, wanted, (places, _) = biased(machine, dtype, "relu_bias")
    if transposed:
        made = made._replace(left_transposed=True, left_leading=5)
        x = machine.download(places[0].address, 5 * 4 * BIASED[dtype]().itemsize // 8)
        machine.upload(places[0].address, x.view(BIASED[dtype]).reshape(5, 4).T.copy())
    machine.multiply(made)
    # The trial leaves nothing behind.
    np.testing.assert_allclose(found_in(machine, made), wanted, atol=ROUNDING[dtype])
    machine.upload(places[0].address, stored(np.array([np.nan]), dtype))
    graph = machine.capture(lambda: machine.multiply(made))
    for again in (lambda: machine.multiply(made), graph):
        machine.clear(made.out, 8)
        again()
        found = found_in(machine, made)
        assert np.isnan(found[0]).all()
        np.testing.assert_allclose(found[1:], wanted[1:], atol=ROUNDING[dtype])


def test_where_one_number_of_a_result_loses_nan_none_does(lt, host, machine, monkeypatch):
    whole = lt._epilogue

    def epilogue(op, *given):
        out = whole(op, *given)
        if lt.get(op, 7) & RELU:
            out[0, -1, -1] = np.nan_to_num(out[0, -1, -1])
        return out

    monkeypatch.setattr(lt, "_epilogue", epilogue)
    made, _, (places, _) = biased(machine, "float32", "relu_bias")
    machine.upload(places[1].address, np.full((4, 70), np.nan, "f4"))
    machine.multiply(made)
    assert np.isnan(found_in(machine, made)).all()


def test_without_memory_to_try_nan_is_kept_all_the_same(lt, host, machine, monkeypatch):
    without_nan(lt, monkeypatch)
    made, _, (places, _) = biased(machine, "float32", "relu_bias")
    machine.upload(places[1].address, np.full((4, 70), np.nan, "f4"))
    assert machine._workspace
    monkeypatch.setattr(host.cupy.cuda, "alloc", no_memory)
    machine.multiply(made)
    assert np.isnan(found_in(machine, made)).all()


def no_memory(n):
    raise MemoryError(f"no {n} bytes")


# Gradients: bits beside relu, what they leave out, sums of a factor


def wide(machine, dtype, epilogue, out_dtype=None):
    """Return a product whose rows are as long as masks must be, what it reads, and its places."""
    out_dtype = out_dtype or dtype
    rng = np.random.default_rng(1)
    m, k, n = 5, 9, 256
    x, weight, bias = (rng.normal(size=size) for size in ((m, k), (k, n), (n,)))
    bits = rng.integers(0, 2, (m, n)).astype(bool)
    given = {
        "x": stored(x, dtype), "weight": stored(weight, dtype), "bias": stored(bias, out_dtype),
        "mask": np.packbits(bits, axis=1, bitorder="little"),
        "out": np.zeros((m, n), BIASED[out_dtype]),
    }  # fmt: skip
    held = {name: machine.memory(a.nbytes) for name, a in given.items()}
    for name, a in given.items():
        machine.upload(held[name].address, a)
    at = {name: memory.address for name, memory in held.items()}
    has_bias, has_mask = epilogue != "drelu", "relu" in epilogue
    made = Matrices(
        dtype, 1, m, k, n, at["x"], False, k, m * k, at["weight"], False, n, k * n, at["out"],
        out_dtype, "float32", epilogue, at["bias"] if has_bias else 0,
        at["mask"] if has_mask else 0,
    )  # fmt: skip
    values = [decode(given[name], kind == "bfloat16") for name, kind in
              (("x", dtype), ("weight", dtype), ("bias", out_dtype))]  # fmt: skip
    return made, values, bits, held


def found_at(machine, memory, like, dtype):
    words = machine.download(memory.address, -(-like.size * BIASED[dtype]().itemsize // 8))
    return decode(words.view(BIASED[dtype])[: like.size].reshape(like.shape), dtype == "bfloat16")


@pytest.mark.parametrize("has", [True, False], ids=["cuBLASLt", "kernels"])
@pytest.mark.parametrize("epilogue", ["relu_aux_bias", "drelu", "bgradb"])
@pytest.mark.parametrize(
    ("dtype", "out_dtype"),
    [("float32", "float32"), ("bfloat16", "bfloat16"), ("float16", "float16"),
     ("bfloat16", "float32")],
)  # fmt: skip
def test_gradients_are_made_with_the_product(
    dtype, out_dtype, epilogue, has, lt, host, machine
):  # fmt: skip
    lt.has_epilogues = has
    made, (x, weight, bias), bits, held = wide(machine, dtype, epilogue, out_dtype)
    machine.multiply(made)
    names = {name for name, *_ in host.launches}
    kernels = {"relu_aux_bias": "add_bias_with_mask", "drelu": "leave_out", "bgradb": "sum_columns"}
    assert any(name.startswith(kernels[epilogue]) for name in names) is not has
    wanted = x @ weight
    bound = ROUNDING[out_dtype]
    if epilogue == "bgradb":
        sums = found_at(machine, held["bias"], bias, out_dtype)
        np.testing.assert_allclose(sums, weight.sum(axis=0), atol=bound)
    elif epilogue == "drelu":
        wanted = np.where(bits, wanted, 0)
    else:
        wanted = np.maximum(wanted + bias, 0)
        words = machine.download(held["mask"].address, bits.size // 64)
        found = np.unpackbits(words.view(np.uint8), bitorder="little").reshape(bits.shape)
        near = np.abs(x @ weight + bias) < bound
        assert (found.astype(bool) == (wanted > 0))[~near].all()
    np.testing.assert_allclose(
        found_at(machine, held["out"], wanted, out_dtype), wanted, atol=bound
    )


KINDS = [
    ("float32", "float32", "tf32"), ("bfloat16", "bfloat16", "float32"),
    ("float16", "float16", "float32"), ("bfloat16", "float32", "float32"),
]  # fmt: skip
GRADIENTS = ("relu_bias", "relu_aux_bias", "drelu", "bgradb")


@pytest.mark.parametrize("kind", KINDS)
def test_an_epilogue_that_is_right_is_found_so_once(kind, lt, host, machine):
    for epilogue in GRADIENTS:
        assert machine.fuses(epilogue, *kind)
    n_ran = len(lt.ran)
    for epilogue in GRADIENTS:
        assert machine.fuses(epilogue, *kind)
    assert len(lt.ran) == n_ran > 0


def test_the_algorithm_that_is_tried_is_the_one_that_is_taken(lt, host, machine, monkeypatch):
    # All are timed alike, so the first is; the others keep NaN, and it does not.
    whole = lt._epilogue

    def epilogue(op, *given):
        out = whole(op, *given)
        return np.nan_to_num(out) if lt.ran[-1][0] == 0 else out

    monkeypatch.setattr(lt, "_epilogue", epilogue)
    assert lt.algorithms > 1
    assert not machine.fuses("relu_bias", *KINDS[1])


def test_an_epilogue_without_an_algorithm_is_not_used(lt, host, machine):
    lt.has_epilogues = False
    assert not any(machine.fuses(epilogue, *KINDS[1]) for epilogue in GRADIENTS)


def turned(bits):
    """Return masks with the bits of each byte in the other order."""
    return np.packbits(np.unpackbits(bits.copy(), bitorder="little"), bitorder="big").reshape(
        bits.shape
    )


FAULTS = [
    ("relu_bias", "loses NaN"), ("relu_aux_bias", "writes bits in another order"),
    ("drelu", "reads bits in another order"), ("drelu", "multiplies by them"),
    ("bgradb", "has other sums"), ("bgradb", "counts in 16 bits"),
]  # fmt: skip


@pytest.mark.parametrize(("epilogue", "fault"), FAULTS)
@pytest.mark.parametrize("kind", KINDS[:2])
def test_an_epilogue_that_is_not_what_is_meant_is_not_used(
    kind, epilogue, fault, lt, host, machine, monkeypatch
):
    from tests import cublaslt_on_cpu

    if fault == "loses NaN":
        without_nan(lt, monkeypatch)
    else:
        memory, whole = cublaslt_on_cpu.memory, lt._epilogue

        def other(op, out, left, right, *given):
            if fault == "has other sums":
                return whole(op, out, 2 * left, right, *given)
            if fault == "counts in 16 bits":
                return whole(op, out, np.where(left.sum(-1, keepdims=True) > 2048, 0.5, left),
                             right, *given)  # fmt: skip
            aux = lt.get(op, 11)
            n = out.shape[1] * out.shape[2] // 8
            bits = memory(aux, n, "u1") if aux else None
            as_written = bits.copy() if aux else None
            if fault == "reads bits in another order" and aux:
                bits[...] = turned(bits)
            if fault == "multiplies by them" and aux:
                return out * np.unpackbits(bits, bitorder="little").reshape(128, 128).T
            out = whole(op, out, left, right, *given)
            if fault == "reads bits in another order" and aux:
                bits[...] = as_written
            if fault == "writes bits in another order" and aux:
                bits[...] = turned(bits)
            return out

        monkeypatch.setattr(lt, "_epilogue", other)
    assert not machine.fuses(epilogue, *kind)
    others = [x for x in GRADIENTS if x != epilogue and "relu" not in epilogue + x]
    assert all(machine.fuses(x, *kind) for x in others)


@pytest.mark.parametrize("takes", [0.5, 2.0], ids=["kernel is faster", "epilogue is faster"])
def test_the_faster_of_an_epilogue_and_a_kernel_is_taken_and_kept(
    takes, lt, host, machine, monkeypatch
):
    monkeypatch.setattr(cuda_machine, "COMPARED_FROM", 1)
    timer, timed = products_gpu.event_timer, []

    def by_what_it_starts(launch, stream):
        n_launched = len(host.launches)
        time_s = timer(launch, stream)
        is_kernel = len(host.launches) > n_launched
        timed.append(is_kernel)
        return takes if is_kernel else time_s

    monkeypatch.setattr(products_gpu, "event_timer", by_what_it_starts)
    for again in (False, True):
        made, (x, weight, _), bits, held = wide(machine, "float32", "drelu")
        machine.multiply(made)
        assert timed.count(True) == (not again)  # the second time its time is known
        timed.clear()
        before = len(host.launches)
        machine.multiply(made)
        assert (len(host.launches) > before) is (takes < 1)
        wanted = np.where(bits, x @ weight, 0)
        np.testing.assert_allclose(
            found_at(machine, held["out"], wanted, "float32"), wanted, atol=1e-5
        )
        machine._plans.clear()


@pytest.mark.parametrize("precision", ["high", "medium"])
@pytest.mark.parametrize("has", [True, False], ids=["all", "a bias alone"])
def test_a_wide_step_driven_has_the_numbers_of_loops(has, precision, lt, machine, monkeypatch):
    from nnx.kernels import cuda_masks
    from tests import test_cuda_masks as masks

    monkeypatch.setattr(cuda_masks, "WIDE", masks.WIDTH)
    lt.has_epilogues, lt.has_bias = has, True
    arrays = masks.arguments()
    form = masks.form_of(masks.network, arrays)
    program = masks.program_of(form, precision, machine)
    results = outputs_for(form.lowered, {})
    assert run_cuda(program, arrays + form.literals, results, {}) == 0
    machine.download(machine._workspace.address, 1)  # waits
    kind = masks.ROUND[precision]
    rounding = 4e-3 if precision == "medium" else 1e-5
    for found, wanted in zip(results, masks.by_hand(kind, *arrays), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=rounding * np.abs(wanted).max())
