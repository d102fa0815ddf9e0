"""Compiled steps on disk: what comes back, and what happens when something goes wrong."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import math
import os
import random
import re
import signal
import stat
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import pytest

from nnx.kernels import cache, native

SOURCE = """
def step(table):
    put(table, 2, get(table, 0) * get(table, 1))
    return get(table, 0) + get(table, 1)
"""
# Stands for nnx.kernels.intrinsics: two functions are enough to compile a step.
TWINS = """
def twins():
    from numba.core import types
    from numba.extending import intrinsic

    @intrinsic
    def get(context, table, i):
        def code(context, builder, signature, args):
            return builder.load(builder.gep(args[0], [args[1]]))

        return types.int64(table, types.int64), code

    @intrinsic
    def put(context, table, i, value):
        def code(context, builder, signature, args):
            builder.store(args[2], builder.gep(args[0], [args[1]]))
            return context.get_dummy_value()

        return types.none(table, types.int64, types.int64), code

    return {"get": get, "put": put}
"""
CHILD = f"""
import sys
import numpy as np
from nnx.kernels import cache, native
{TWINS}
native.twins = twins
SOURCE = {SOURCE!r}

def run(source=SOURCE, **options):
    table = np.array([3, 4, 0])
    status = cache.load(source, **options).bind(table.ctypes.data)()
    return status, table.tolist()
"""
RESULT = (7, [3, 4, 12])
REAL_TWINS = native.twins


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty cache of its own for each test, on disk and in memory."""
    path = tmp_path / "cache"
    monkeypatch.setenv("NNX_CACHE_DIR", str(path))
    monkeypatch.setattr(cache, "_loaded", {})
    monkeypatch.setattr(cache, "_warned", set())
    monkeypatch.setattr(native, "twins", twins)
    return path


@pytest.fixture(scope="session")
def made():
    """The object code of SOURCE, compiled once."""
    original, native.twins = native.twins, twins
    try:
        return native.compile_step(SOURCE, "<made>")
    finally:
        native.twins = original


@pytest.fixture
def quick(made, monkeypatch):
    """Compiling SOURCE takes no time; the list has an item for each time."""
    calls = []

    def compile_step(source, file_name):
        calls.append(file_name)
        return made

    monkeypatch.setattr(cache, "compile_step", compile_step)
    return calls


space = {}
exec(TWINS, space)
_twins = []


def twins():
    """The twins of TWINS, made once."""
    if not _twins:
        _twins.append(space["twins"]())
    return _twins[0]


def run(source=SOURCE, **options):
    table = np.array([3, 4, 0])
    status = cache.load(source, **options).bind(table.ctypes.data)()
    return status, table.tolist()


def run_anew(source=SOURCE, **options):
    """Run as a new process would: nothing in memory."""
    cache._loaded.clear()
    return run(source, **options)


def start(code, **environment):
    """Start a process that has run CHILD and runs this code."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", CHILD + code],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def output_of(process):
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out.strip()


def the_entry(folder):
    (path,) = folder.glob("*.bin")
    return path


def left_over(folder):
    return [path.name for path in folder.iterdir() if path.name.endswith(".tmp")]


# What comes back


def test_cold_and_warm_give_the_same(folder, monkeypatch):
    assert run() == RESULT
    monkeypatch.setattr(cache, "compile_step", None)
    assert run_anew() == RESULT
    assert cache.entries() == [(the_entry(folder).name, the_entry(folder).stat().st_size)]


def test_entry_and_directory_are_for_their_owner_alone(folder, quick):
    run()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_source_lies_beside_the_entry(folder, quick):
    run()
    source = the_entry(folder).with_suffix(".py")
    assert source.read_text() == SOURCE
    assert quick == [str(source)]
    source.unlink()
    assert run_anew() == RESULT
    assert len(quick) == 1


def test_warm_process_does_not_import_numba(folder):
    run()
    code = "print(run(), 'numba' in sys.modules, 'importlib.metadata' in sys.modules)"
    assert output_of(start(code)) == f"{RESULT} False False"


def test_second_load_is_from_memory(folder, quick):
    first = cache.load(SOURCE)
    the_entry(folder).unlink()
    assert cache.load(SOURCE) is first
    assert len(quick) == 1


def test_threads_compile_once(made, monkeypatch):
    calls = []

    def compile_step(source, file_name):
        calls.append(file_name)
        time.sleep(0.05)
        return made

    monkeypatch.setattr(cache, "compile_step", compile_step)
    results = []
    threads = [threading.Thread(target=lambda: results.append(run())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [RESULT] * 8
    assert len(calls) == 1


def test_bound_steps_have_tables_of_their_own(quick):
    function = cache.load(SOURCE)
    first, second = np.array([1, 2, 0]), np.array([5, -6, 0])
    runs = function.bind(first.ctypes.data), function.bind(second.ctypes.data)
    assert [run() for run in runs] == [3, -1]
    assert [run() for run in runs] == [3, -1]
    assert (first[2], second[2]) == (2, -30)


def test_bound_step_keeps_its_code(quick):
    table = np.array([3, 4, 0])
    step = cache.load(SOURCE).bind(table.ctypes.data)
    cache.clear()
    assert step() == 7


def test_threads_may_run_one_step(quick):
    """Each result is its own call's, though the calls run at once."""
    source_runs = []
    for pair in ((1, 2), (30, 40)):
        table = np.array([*pair, 0])
        source_runs.append((cache.load(SOURCE).bind(table.ctypes.data), sum(pair), table))
    wrong = []

    def repeat(step, expected):
        wrong.extend(value for _ in range(20000) if (value := step()) != expected)

    threads = [threading.Thread(target=repeat, args=pair[:2]) for pair in source_runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_address_is_of_a_function_of_the_table(quick):
    function = cache.load(SOURCE)
    table = np.array([3, 4, 0])
    entry = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)(function.address)
    assert entry(table.ctypes.data) == 7
    assert function.symbol.startswith("nnx_step.")


def test_error_of_the_step_is_raised():
    source = "def step(table):\n    if get(table, 0) > 0:\n        raise ValueError\n    return 5\n"
    table = np.array([0])
    step = cache.load(source).bind(table.ctypes.data)
    assert step() == 5
    table[0] = 1
    with pytest.raises(RuntimeError, match="nnx_step.* stopped with an error"):
        step()


def test_negative_result_is_no_error(quick):
    table = np.array([-(2**63) + 1, 0, 0])
    assert cache.load(SOURCE).bind(table.ctypes.data)() == -(2**63) + 1


def test_names_of_the_runtime_are_compiled(monkeypatch):
    """With nnx's own twins, in this process and, from disk, in another."""
    monkeypatch.setattr(native, "twins", REAL_TWINS)
    source = (
        "from nnx.kernels.runtime import *\n"
        "def step(table):\n    p = i64_at(table[0])\n    p[0] = p[1] + i64(1)\n"
        "    return table[1]\n"
    )
    code = f"""
numbers = np.array([0, 41])
table = np.array([numbers.ctypes.data, 7])
status = cache.load({source!r}).bind(table.ctypes.data)()
"""
    space = {"np": np, "cache": cache}
    exec(code, space)
    assert (space["status"], space["numbers"].tolist()) == (7, [42, 41])
    code += "print(status, numbers.tolist(), 'numba' in sys.modules)"
    assert output_of(start(code)) == "7 [42, 41] False"


def test_source_without_a_step_is_refused():
    with pytest.raises(ValueError, match=r"defines no function step\(table\)"):
        cache.load("def stepp(table):\n    return 0\n")


def test_compiler_shows_the_line_of_the_source():
    with pytest.raises(Exception, match="return len\\(3\\)"):
        cache.load("def step(table):\n    return len(3)\n")


# The key


def test_key_follows_from_source_and_symbols(quick):
    keys = {cache._key(*parts) for parts in [("a", ()), ("b", ()), ("a", ("c",)), ("a", ("d",))]}
    assert len(keys) == 4
    assert cache._key("a", ("x", "y")) == cache._key("a", ("y", "x"))


def test_key_follows_from_what_is_compiled_into_steps(tmp_path, monkeypatch):
    modules = cache._modules()
    monkeypatch.setattr(cache, "_texts", cache._texts.__wrapped__)
    found = {cache._key(SOURCE, ())}
    for name in ("native.py", "cache.py", "philox.py"):
        (place,) = [i for i, path in enumerate(modules) if path.name == name]
        changed = tmp_path / name
        changed.write_bytes(modules[place].read_bytes() + b"# changed")
        other = [*modules[:place], changed, *modules[place + 1 :]]
        monkeypatch.setattr(cache, "_modules", lambda paths=other: paths)
        found.add(cache._key(SOURCE, ()))
    assert len(found) == 4
    assert {path.parent for path in modules[:-1]} == {modules[0].parent}


@pytest.mark.parametrize("place", range(6))
def test_key_follows_from_versions_and_processor(place, monkeypatch):
    before = cache._key(SOURCE, ())
    machine = list(cache._machine())
    machine[place] += "x"
    monkeypatch.setattr(cache, "_machine", lambda: tuple(machine))
    assert len(machine) == 6
    assert cache._key(SOURCE, ()) != before


def test_key_follows_from_numbas_settings(monkeypatch):
    before = cache._key(SOURCE, ())
    monkeypatch.setenv("NUMBA_OPT", "0")
    assert cache._key(SOURCE, ()) != before


def test_version_of_numba_is_read():
    import numba

    assert numba.__version__ in cache._numba_version()


# Symbols


def test_symbol_is_called_by_name(folder):
    source = (
        "from numba import types\n"
        "twice = types.ExternalFunction('nnx_test_twice_v1', types.int64(types.int64))\n"
        "def step(table):\n    return twice(get(table, 0))\n"
    )
    twice = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(lambda value: 2 * value)
    address = ctypes.cast(twice, ctypes.c_void_p).value
    assert run(source, symbols={"nnx_test_twice_v1": address})[0] == 6
    assert cache._read(the_entry(folder), the_key(folder)).needs == ("nnx_test_twice_v1",)
    code = f"""
import ctypes
twice = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(lambda value: 2 * value)
address = ctypes.cast(twice, ctypes.c_void_p).value
status, _ = run({source!r}, symbols={{"nnx_test_twice_v1": address}})
print(status, "numba" in sys.modules)
"""
    assert output_of(start(code)) == "6 False"


def the_key(folder):
    return the_entry(folder).read_bytes()[12:44].hex()


def test_missing_symbol_of_a_new_step_is_named():
    source = (
        "from numba import types\n"
        "absent = types.ExternalFunction('nnx_test_absent', types.int64(types.int64))\n"
        "def step(table):\n    return absent(get(table, 0))\n"
    )
    with pytest.raises(RuntimeError, match=r"needs nnx_test_absent, .*symbols=\{name: address\}"):
        cache.load(source)
    assert cache.entries() == []


def test_missing_symbol_of_an_entry_is_compiled_again(folder, made, quick):
    run()
    spoilt = made._replace(needs=("nnx_test_absent",))
    the_entry(folder).write_bytes(cache._packed(spoilt, the_key(folder)))
    with pytest.warns(UserWarning, match=r"compiled again: .*needs nnx_test_absent"):
        assert run_anew() == RESULT
    assert len(quick) == 2
    assert run_anew() == RESULT


@pytest.mark.parametrize("address", [0, None])
def test_symbol_without_an_address_is_refused(address):
    with pytest.raises(ValueError, match=r"'name' has the address"):
        cache.load(SOURCE, symbols={"name": address})


@pytest.mark.parametrize(
    ("call", "expected"),
    [("expm1(x)", math.expm1(3)), ("ldexp(x, 2)", 12.0), ("erf(x / 4)", math.erf(0.75))],
)
def test_functions_of_c_are_found_in_a_new_process(call, expected):
    """Those of libm, and one that only Numba has: then Numba is imported, and nothing breaks."""
    source = (
        "import math\nfrom math import expm1, ldexp, erf\n"
        f"def step(table):\n    x = float(get(table, 0))\n    return int(1000 * {call})\n"
    )
    assert run(source)[0] == int(1000 * expected)
    assert output_of(start(f"print(run({source!r})[0])")) == str(int(1000 * expected))


def test_functions_of_c_are_found_where_python_does_not_link_them(monkeypatch):
    added = {}
    monkeypatch.setattr(native.llvm, "address_of_symbol", lambda name: None)
    monkeypatch.setattr(native.llvm, "add_symbol", added.__setitem__)
    assert native._is_known("log1p")
    log1p = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_double)(added["log1p"])
    assert log1p(0.5) == pytest.approx(math.log1p(0.5))
    assert not native._is_known("nnx_test_absent")


# Damage


def damaged(content, other, rng):
    """Return a damaged copy of an entry: one of eight kinds."""
    kind = rng.randrange(8)
    if kind == 0:
        return b""
    if kind == 1:  # cut off, anywhere
        return content[: rng.randrange(1, len(content))]
    if kind == 2:  # cut off at the edge of a part, or near it
        edge = rng.choice([8, 12, 44, 48, 56, len(content) - 32, len(content)])
        return content[: max(edge - rng.randrange(1, 3), 0)]
    if kind == 3:
        return content + rng.randbytes(rng.randrange(1, 100))
    if kind == 4:
        return rng.randbytes(rng.choice([1, 31, 32, 33, 87, 88, 89, 5000]))
    if kind == 5:  # whole, but another step's
        return other
    if kind == 6:  # a block of zeros, as a disk leaves it
        start = rng.randrange(len(content))
        found = bytearray(content)
        found[start : start + 512] = bytes(len(found[start : start + 512]))
        return bytes(found)
    found = bytearray(content)  # bits flipped
    for _ in range(rng.choice([1, 1, 1, 2, 8])):
        found[rng.randrange(len(found))] ^= 1 << rng.randrange(8)
    return bytes(found)


@pytest.mark.parametrize("seed", range(8))
def test_damaged_entries_warn_and_are_compiled_again(seed, folder, made, quick):
    rng = random.Random(seed)
    run()
    path = the_entry(folder)
    content = path.read_bytes()
    other = cache._packed(made, hashlib.sha256(b"another").hexdigest())
    for i in range(40):
        bad = damaged(content, other, rng)
        if bad == content:  # zeros over zeros
            continue
        path.write_bytes(bad)
        with pytest.warns(UserWarning) as caught:
            assert run_anew() == RESULT, (seed, i)
        (message,) = [str(warning.message) for warning in caught]
        assert str(path) in message and "It was compiled again." in message, (seed, i)
        assert path.read_bytes() == content, (seed, i)
    assert len(quick) > 35
    assert left_over(folder) == []


def test_every_bit_of_an_entry_is_covered(made):
    """Without compiling or linking: no flipped bit is taken for the entry."""
    key = cache._key(SOURCE, ())
    content = cache._packed(made._replace(code=made.code[:200]), key)
    assert cache._unpacked(content, key).code == made.code[:200]
    for place in range(8 * len(content)):
        bad = bytearray(content)
        bad[place // 8] ^= 1 << place % 8
        with pytest.raises(cache.UnusableError):
            cache._unpacked(bytes(bad), key)


def test_entry_of_another_make_is_refused_whatever_its_digest(made):
    """The digest is right; what it covers is not what this code reads."""
    key = cache._key(SOURCE, ())
    content = cache._packed(made, key)[:-32]
    size = cache.HEADER.size
    names = content[size : content.index(b"}", size) + 1]
    changed = {
        "format": b"other!!!" + content[8:],
        f"format {cache.FORMAT}": content[:8] + b"\xff" + content[9:],
        "another step": content[:12] + bytes(32) + content[44:],
        "too short": content[:20],
        "add up": content + b"\x00",
        "names": content.replace(names, b"[" * len(names)),
        "list of names": content.replace(b'"needs"', b'"nee_s"'),
    }
    for problem, body in changed.items():
        with pytest.raises(cache.UnusableError, match=problem):
            cache._unpacked(body + hashlib.sha256(body).digest(), key)


@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "others", "huge"])
def test_entry_that_is_no_file_of_ours_is_not_read(kind, folder, quick, monkeypatch):
    run()
    path = the_entry(folder)
    moved = path.rename(folder / "moved")
    if kind == "link":
        path.symlink_to(moved)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "others":
        path.write_bytes(moved.read_bytes())
        path.chmod(0o666)
    else:
        path.write_bytes(moved.read_bytes())
        monkeypatch.setattr(cache, "LIMIT_BYTES", 100)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert run_anew() == RESULT
    reason = {
        "link": "is it a link",
        "others": "can be written by other users",
        "huge": "is too large",
    }.get(kind, "is not a regular file")
    assert re.search(rf"{path.name} .*{reason}", str(caught[-1].message))
    assert len(quick) == 2
    if kind != "folder":
        assert path.is_file() and not path.is_symlink()
    assert moved.is_file()


def test_entry_of_another_user_is_not_read(folder, quick, monkeypatch):
    run()
    original = os.fstat

    def fstat(descriptor):
        state = list(original(descriptor))
        state[4] += 1
        return os.stat_result(state)

    monkeypatch.setattr(os, "fstat", fstat)
    with pytest.warns(UserWarning, match="belongs to another user"):
        assert run_anew() == RESULT


def test_warning_made_an_error_leaves_a_good_entry(folder, quick):
    run()
    the_entry(folder).write_bytes(b"")
    with pytest.raises(UserWarning, match="is empty"):
        run_anew()
    assert run_anew() == RESULT


# Several processes


def test_eight_processes_share_an_empty_cache(folder):
    processes = [start("print(run())") for _ in range(8)]
    assert [output_of(process) for process in processes] == [str(RESULT)] * 8
    assert len(cache.entries()) == 1
    assert left_over(folder) == []


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_killed_writer_leaves_only_a_temporary_file(folder, quick):
    code = """
import os, signal
original = os.replace
def replace(source, target):
    if str(target).endswith(".bin"):
        os.kill(os.getpid(), signal.SIGKILL)
    original(source, target)
os.replace = replace
run()
"""
    process = start(code)
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    assert cache.entries() == []
    (temporary,) = left_over(folder)
    assert run() == RESULT
    assert left_over(folder) == [temporary]
    # An hour later the next writer removes it.
    past = time.time() - cache.STALE_S - 1
    os.utime(folder / temporary, (past, past))
    run(SOURCE + "#")
    assert left_over(folder) == []
    assert len(cache.entries()) == 2


def test_failed_write_leaves_no_temporary_file(folder, quick, monkeypatch):
    def replace(source, target):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "replace", replace)
    with pytest.warns(UserWarning, match="Input/output error"):
        assert run() == RESULT
    assert list(folder.iterdir()) == []


# The directory


def test_directory_is_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.delenv("NNX_CACHE_DIR")
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name, **_: tmp_path / name)
    assert cache.directory() == tmp_path / "nnx" / "kernels"
    monkeypatch.setenv("NNX_CACHE_DIR", "")
    assert cache.directory() == tmp_path / "nnx" / "kernels"


def test_directory_may_be_named(tmp_path, monkeypatch, quick):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NNX_CACHE_DIR", "~/a/b")
    run()
    assert cache.directory() == tmp_path / "a" / "b"
    assert len(cache.entries()) == 1
    assert the_entry(tmp_path / "a" / "b").is_file()


def test_directory_without_a_home_is_not_made_elsewhere(tmp_path, monkeypatch, quick):
    monkeypatch.delenv("NNX_CACHE_DIR")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("platformdirs.user_cache_path", lambda *_, **__: type(tmp_path)("~/x"))
    assert run() == RESULT
    assert cache.directory() is None
    assert cache.entries() == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770, 0o702])
def test_directory_that_others_can_write_to_is_refused(mode, folder, quick):
    folder.mkdir()
    folder.chmod(mode)
    with pytest.warns(UserWarning, match=r"can be written by other users.*chmod go-w") as caught:
        assert run() == RESULT
        assert run_anew() == RESULT
    assert len(caught) == 1
    assert len(quick) == 2
    assert list(folder.iterdir()) == []
    assert cache.directory() is None


def test_directory_of_another_user_is_refused(folder, quick, monkeypatch):
    folder.mkdir(mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.warns(UserWarning, match=r"belongs to another user.*NNX_CACHE_DIR"):
        assert run() == RESULT
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("named", [True, False])
def test_directory_that_cannot_be_made(named, tmp_path, monkeypatch, quick):
    """A warning only where the user named it, and one."""
    (tmp_path / "file").write_text("")
    if named:
        monkeypatch.setenv("NNX_CACHE_DIR", str(tmp_path / "file" / "cache"))
    else:
        monkeypatch.delenv("NNX_CACHE_DIR")
        monkeypatch.setattr("platformdirs.user_cache_path", lambda *_, **__: tmp_path / "file")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert run() == RESULT
        assert run_anew() == RESULT
        cache.clear()
    assert [str(w.message).startswith("NNX_CACHE_DIR is") for w in caught] == [True] * named
    assert len(quick) == 2


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_directory_that_cannot_be_written(named, number, tmp_path, folder, monkeypatch, quick):
    """Read-only or full; what is in it is still read."""
    if not named:
        monkeypatch.delenv("NNX_CACHE_DIR")
        monkeypatch.setattr("platformdirs.user_cache_path", lambda *_, **__: tmp_path)
    run()
    original = os.open

    def refuse(path, flags, *rest):
        if flags & os.O_CREAT:
            raise OSError(number, os.strerror(number), path)
        return original(path, flags, *rest)

    monkeypatch.setattr(os, "open", refuse)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert run_anew() == RESULT
        assert len(quick) == 1
        assert run(SOURCE + "#") == RESULT
        assert run_anew(SOURCE + "#") == RESULT
    assert [os.strerror(number) in str(w.message) for w in caught] == [True] * named
    assert len(quick) == 3


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_full_disk_leaves_nothing_behind(folder, quick, monkeypatch):
    original = os.open

    def full(path, flags, *rest):
        if flags & os.O_CREAT:
            os.close(original(path, flags, *rest))
            return original("/dev/full", os.O_WRONLY)
        return original(path, flags, *rest)

    monkeypatch.setattr(os, "open", full)
    with pytest.warns(UserWarning, match="No space left on device"):
        assert run() == RESULT
    assert list(folder.iterdir()) == []


def test_oldest_files_make_room(folder, quick, monkeypatch):
    run()
    size = sum(path.stat().st_size for path in folder.iterdir())
    monkeypatch.setattr(cache, "LIMIT_BYTES", 3 * size + 100)
    names = [the_entry(folder).name]
    for i in range(1, 6):
        for path in folder.iterdir():
            state = path.stat()
            os.utime(path, (state.st_atime - 10, state.st_mtime - 10))
        run(SOURCE + "#" * i)
        names.append(({name for name, _ in cache.entries()} - set(names)).pop())
    assert {name for name, _ in cache.entries()} == set(names[-3:])
    assert len(list(folder.iterdir())) == 6
    # One that is larger than the limit stays: it is the newest.
    monkeypatch.setattr(cache, "LIMIT_BYTES", 10)
    run(SOURCE + "#" * 6)
    assert len(list(folder.iterdir())) == 2


def test_clear_removes_what_is_ours_alone(folder, quick):
    run()
    (folder / "notes.txt").write_text("mine")
    (folder / (the_entry(folder).name + ".1-ab.tmp")).write_text("")
    cache.clear()
    assert cache.entries() == []
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    assert run() == RESULT
    assert len(quick) == 2


def test_a_long_text_is_told_before_it_is_compiled(monkeypatch, tmp_path):
    monkeypatch.setenv("NNX_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(cache, "MANY_LINES", 5)
    source = "def step(table):\n" + "    table[1] = 7\n" * 8 + "    return 0\n"
    with pytest.warns(UserWarning, match=r"compiled step of 10 lines takes its time.*jit=False"):
        cache.load(source)
    cache._loaded.clear()
    cache.load(source)  # from disk: nothing to tell
