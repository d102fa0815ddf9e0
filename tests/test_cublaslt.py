"""cuBLASLt's binding: constants and types as in its header, handles, where the library is found."""

from __future__ import annotations

import ctypes
import importlib.util
import re
import shutil
import sys
from pathlib import Path

import pytest

from nnx.errors import DeviceError
from nnx.kernels import cublaslt, cuda_library
from nnx.kernels.cublaslt import MatmulDesc, MatmulPref, MatrixLayout
from tests.conftest import why_not

# The header


@pytest.fixture(scope="session")
def header():
    """The text of the three headers, wherever CUDA's are."""
    spec = importlib.util.find_spec("nvidia")
    folders = [
        include
        for root in (spec.submodule_search_locations if spec else ())
        for include in [*Path(root).glob("cu1?/include"), *Path(root).glob("*/include")]
    ]
    if nvcc := shutil.which("nvcc"):
        folders.append(Path(nvcc).resolve().parents[1] / "include")
    folders.append(Path("/usr/local/cuda/include"))
    texts = []
    for name in ("library_types.h", "cublas_api.h", "cublasLt.h"):
        path = next((place / name for place in folders if (place / name).is_file()), None)
        if path is None:
            pytest.skip(f"no {name} on this machine")
        texts.append(path.read_text(errors="replace"))
    return "\n".join(texts)


def constants_of(text):
    """Return the enumerators that have values, by name."""
    found = {}
    code = re.sub(r"/\*.*?\*/|//[^\n]*", " ", text, flags=re.DOTALL)
    for name, terms in re.findall(r"\b(CU[A-Z]\w+)\s*=\s*([\w |()]+?)\s*[,}]", code):
        value = 0
        for term in terms.strip("() ").split("|"):
            term = term.strip()
            value |= found[term] if term in found else int(term, 0)
        found[name] = value
    return found


PREFIXES = {
    cublaslt.MatmulDesc: "CUBLASLT_MATMUL_DESC_",
    cublaslt.MatrixLayout: "CUBLASLT_MATRIX_LAYOUT_",
    cublaslt.MatmulPref: "CUBLASLT_MATMUL_PREF_",
    cublaslt.Epilogue: "CUBLASLT_EPILOGUE_",
    cublaslt.ReductionScheme: "CUBLASLT_REDUCTION_SCHEME_",
    cublaslt.Operation: "CUBLAS_OP_",
    cublaslt.Compute: "CUBLAS_",
    cublaslt.DataType: "CUDA_",
    cublaslt.Status: "CUBLAS_STATUS_",
}


def test_every_enumeration_is_compared_with_the_header():
    ours = {
        value
        for value in vars(cublaslt).values()
        if isinstance(value, type) and value.__module__ == cublaslt.__name__
        if issubclass(value, int) and len(value)
    }
    assert ours == set(PREFIXES)


@pytest.mark.parametrize("ours", PREFIXES, ids=lambda kind: kind.__name__)
def test_constants_are_those_of_the_header(header, ours):
    theirs = constants_of(header)
    expected = {name: theirs[PREFIXES[ours] + name] for name in ours.__members__}
    assert {name: member.value for name, member in ours.__members__.items()} == expected


C_TYPES = {
    "int32_t": ctypes.c_int32, "uint32_t": ctypes.c_uint32, "int64_t": ctypes.c_int64,
    "uint64_t": ctypes.c_uint64, "void": ctypes.c_void_p,
}  # fmt: skip


@pytest.mark.parametrize(
    "attribute",
    [*MatmulDesc, *MatrixLayout, *MatmulPref],
    ids=lambda attribute: f"{type(attribute).__name__}.{attribute.name}",
)
def test_types_of_attributes_are_those_of_the_header(header, attribute):
    name = PREFIXES[type(attribute)] + attribute.name
    before = header[: re.search(rf"\b{name} = ", header).start()]
    comment = before[before.rindex("/**") :]
    line = r"^ *\*\s+(?:[\w ]+: )?(?:const )?(u?int\d+_t|void)\b[^.]*$"
    assert attribute.c_type is C_TYPES[re.findall(line, comment, re.MULTILINE)[-1]]


def c_type_of(parameter):
    """Return the ctypes type of a parameter as the header writes it."""
    known = {"size_t": ctypes.c_size_t, "uint64_t": ctypes.c_uint64, "int64_t": ctypes.c_int64}
    word = parameter.replace("const ", "").split()[0]
    opaque = r"cublasLt\w*(Handle|Desc|Layout|Preference)_t|cudaStream_t"
    if "*" in parameter or "[" in parameter or re.fullmatch(opaque, word):
        return ctypes.c_void_p
    return known.get(word, ctypes.c_int)


@pytest.mark.parametrize("name", cublaslt.SIGNATURES)
def test_signatures_are_those_of_the_header(header, name):
    code = re.sub(r"/\*.*?\*/|//[^\n]*", " ", header, flags=re.DOTALL)
    result, inside = re.search(
        rf"([\w ]+\*?) CUBLASWINAPI\s+{name}\s*\((.*?)\);", code, re.S
    ).groups()
    parameters = [p.strip() for p in inside.split(",") if p.strip() not in ("", "void")]
    ours = cublaslt.SIGNATURES[name]
    assert ours[1] == tuple(map(c_type_of, parameters))
    expected = {"const char*": ctypes.c_char_p, "size_t": ctypes.c_size_t}
    assert ours[0] is expected.get(result.strip(), ctypes.c_int)


def test_structures_are_those_of_the_header(header):
    words = re.search(r"uint64_t data\[(\d+)\];\s*\} cublasLtMatmulAlgo_t;", header).group(1)
    assert ctypes.sizeof(cublaslt.Algo) == 8 * int(words) == cublaslt.ALGO_BYTES
    end = header.index("} cublasLtMatmulHeuristicResult_t;")
    body = header[header.rindex("typedef struct {", 0, end) : end]
    code = re.sub(r"/\*.*?\*/", " ", body, flags=re.DOTALL)
    fields = re.findall(r"(\w+) (\w+)(\[\d+\])?;", code)
    kinds = {
        "cublasLtMatmulAlgo_t": cublaslt.Algo, "size_t": ctypes.c_size_t, "float": ctypes.c_float,
        "cublasStatus_t": ctypes.c_int, "int": ctypes.c_int,
    }  # fmt: skip
    theirs = [kinds[kind] * int(n[1:-1]) if n else kinds[kind] for kind, _, n in fields]
    assert [kind for _, kind in cublaslt.HeuristicResult._fields_] == theirs


# Errors of the real library


def test_real_library_names_what_it_refuses(real_cublaslt):
    layout = cublaslt.LayoutDescriptor(real_cublaslt, 0, 3, 7, 3)
    wrong = MatmulDesc.EPILOGUE_AUX_LD  # no attribute of a layout has this number and size
    with pytest.raises(cublaslt.StatusError) as caught:
        layout[wrong] = 5
    assert caught.value.status == 7
    assert str(caught.value) == (
        "cublasLtMatrixLayoutSetAttribute answered CUBLAS_STATUS_INVALID_VALUE (7) for "
        "EPILOGUE_AUX_LD = 5."
    )


def test_real_library_without_a_driver_says_what_it_needs(real_cublaslt):
    if why_not("cupy") is None:
        pytest.skip("there is a GPU")
    with pytest.raises(cublaslt.StatusError, match=r"cublasLtCreate answered CUBLAS_\w+ .*driver"):
        real_cublaslt.handle(0)


# Handles


def test_handle_is_one_for_each_gpu(cpu):
    library = cpu.library
    first, second = library.handle(0), library.handle(1)
    assert library.handle(0) is first and second is not first
    assert cpu.handles == {first.address, second.address}
    address = first.address
    library.release(0)
    library.release(0)
    assert address not in cpu.handles and first.address == 0
    assert library.handle(0).address


# Finding the library


@pytest.fixture
def nowhere(monkeypatch):
    """No library on this machine."""
    monkeypatch.setattr(cuda_library, "wheels", list)
    monkeypatch.setattr(cuda_library, "pathfinder", lambda stem: "")
    monkeypatch.setattr(cublaslt, "library", cublaslt.library.__wrapped__)

    def load(path):
        raise OSError(f"{path}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", load)


def test_missing_library_says_what_and_for_which_cuda(monkeypatch, nowhere):
    monkeypatch.setattr(cuda_library, "majors", lambda: (12,))
    monkeypatch.setattr(cuda_library.sys, "platform", "linux")
    with pytest.raises(DeviceError) as caught:
        cublaslt.library()
    assert str(caught.value) == (
        "Products on the GPU need cuBLASLt for CUDA 12 (libcublasLt.so.12), which cannot be loaded "
        "here (libcublasLt.so.12: cannot open shared object file). Install it: python -m pip "
        'install "nnx-array[cuda12]".'
    )


def test_missing_library_without_cupy_names_both(monkeypatch, nowhere):
    monkeypatch.setitem(sys.modules, "cupy.cuda", None)
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(DeviceError, match=r"for CUDA 13 or 12 .*nnx-array\[cuda13\]"):
        cublaslt.library()


@pytest.mark.parametrize("inside", ["cu13/lib", "cublas/lib"])
def test_places_are_tried_in_order(monkeypatch, tmp_path, inside):
    monkeypatch.setattr(cuda_library.sys, "platform", "linux")
    monkeypatch.setattr(cuda_library, "wheels", lambda: [tmp_path])
    monkeypatch.setattr(cuda_library, "pathfinder", lambda stem: "/else/libcublasLt.so.13")
    assert list(cuda_library.places(cublaslt.NAME, 13)) == [
        "/else/libcublasLt.so.13",
        "libcublasLt.so.13",
    ]
    (tmp_path / inside).mkdir(parents=True)
    path = tmp_path / inside / "libcublasLt.so.13"
    path.touch()
    assert next(iter(cuda_library.places(cublaslt.NAME, 13))) == str(path)
    # What is found for another CUDA is not taken.
    assert list(cuda_library.places(cublaslt.NAME, 12)) == ["libcublasLt.so.12"]


def test_major_version_is_that_of_cupy():
    runtime = pytest.importorskip("cupy.cuda.runtime", reason="CuPy is not installed")
    assert cuda_library.majors() == (runtime.runtimeGetVersion() // 1000,)
