"""Random programs over the op table, each a function of a seed.

A program is drawn while it runs eagerly on NumPy, so that what comes next can be chosen by shape,
type and size of what there is. Steps read sizes from their inputs and never name that of the
batch, so a program is good for any batch. Results of `EXACT` steps alone may go into ops that
jump, such as floor or a comparison: rounded ones could fall to either side.

    python -m tests.random_graphs SEED    prints a program, its graph and its compiled text
"""

import numpy as np

import nnx

BATCH, OTHER_BATCH = 13, 7
"""Sizes that no other axis has, nor any product of other axes."""

MOST_ELEMENTS = 400
FLOATS = ("float32", "float64")


class Value:
    """What a step made when the program was drawn."""

    def __init__(self, tensor, exact):
        self.array, self.exact = tensor.numpy(), exact
        self.shape, self.ndim, self.kind = self.array.shape, self.array.ndim, self.array.dtype.kind
        self.is_float = self.kind == "f"
        self.dtype = self.array.dtype.name
        finite = np.abs(self.array[np.isfinite(self.array)].astype(np.float64))
        self.size = finite.max(initial=0.0)


class Program:
    """A function of tensors; `inputs(batch)` makes some. ``ops`` names what it uses."""

    def __init__(self, seed, n_steps=8):
        self.seed = seed
        self.rng = np.random.default_rng(seed)
        self._made = []  # how each input is drawn
        self.steps = []
        self.values = []
        self._draw_inputs()
        pool = [nnx.asarray(a, device="numpy") for a in self.inputs(BATCH)]
        self.n_inputs = len(pool)
        self.values = [Value(t, True) for t in pool]
        attempts = 0
        while len(self.steps) < n_steps and attempts < 400:
            attempts += 1
            self._try_step(pool)
        read = {i for _, places, _ in self.steps for i in places}
        made = range(self.n_inputs, len(pool))
        self.outputs = [i for i in made if i not in read or self.rng.random() < 0.15]
        self.slopes = self._differentiable()
        self.ops = sorted({name for _, _, name in self.steps})

    def __call__(self, *inputs):
        return [*self._outputs(inputs), *self._gradients(inputs)]

    def __repr__(self):
        lines = [f"program {self.seed}"]
        for i, (_, places, name) in enumerate(self.steps, self.n_inputs):
            v = self.values[i]
            lines.append(f"  v{i} = {name}{tuple(places)}: {v.dtype}{list(v.shape)}")
        return "\n".join([*lines, f"  outputs {self.outputs}, gradients in {self.slopes}"])

    def inputs(self, batch):
        """Return inputs for a batch of this size."""
        return [make(np.random.default_rng([self.seed, i]), batch) for i, make in self._made]

    # Running

    def _outputs(self, inputs):
        values = list(inputs)
        for f, places, _ in self.steps:
            values.append(f(*(values[i] for i in places)))
        return [values[i] for i in self.outputs]

    def _gradients(self, inputs):
        if not self.slopes:
            return []

        def scalar(floats):
            given = list(inputs)
            for i, x in zip(self.slopes, floats, strict=True):
                given[i] = x
            parts = [x for x in self._outputs(given) if x.dtype.is_floating]
            total = 0.0
            for k, x in enumerate(parts):
                total = total + nnx.sum(nnx.tanh(x * 0.5 + 0.1 * k)).astype("float64")
            return total

        return list(nnx.grad(scalar)([inputs[i] for i in self.slopes]))

    def _differentiable(self):
        """Return the float inputs that reach a float output, in half of the programs."""
        if self.rng.random() < 0.4:
            return []
        reached = [set() for _ in self.values]
        for i in range(self.n_inputs):
            if self.values[i].is_float:
                reached[i] = {i}
        for i, (_, places, _) in enumerate(self.steps, self.n_inputs):
            if self.values[i].is_float:
                reached[i] = {k for p in places for k in reached[p]}
        found = {k for i in self.outputs if self.values[i].is_float for k in reached[i]}
        return sorted(found)

    # Drawing

    def _draw_inputs(self):
        rng = self.rng
        n, m = rng.integers(2, 6, 2).tolist()
        shapes = [("B", n), ("B", n), (n, m), (m,), ("B",), ("B", n, m), (), (1, n), (n, 1), (m, n)]
        wide = rng.random() < 0.2
        for k in range(int(rng.integers(3, 6))):
            shape = ("B", n) if k == 0 else shapes[rng.integers(len(shapes))]
            dtype = "float64" if wide or rng.random() < 0.1 else "float32"
            kind = rng.random() if k else 0.0
            self._made.append((k, _maker(shape, dtype, kind)))

    def _try_step(self, pool):
        move = MOVES[self.rng.integers(len(MOVES))]
        found = move(self)
        if found is None:
            return
        name, f, places, exact = found
        try:
            out = f(*(pool[i] for i in places))
        except nnx.NnxError:  # a minimum of nothing, a label beyond the classes
            return
        exact = exact and all(self.values[i].exact for i in places)
        value = Value(out, exact)
        fits = value.array.size <= MOST_ELEMENTS and value.size < 300 and value.ndim <= 4
        if fits and (self.rng.random() < 0.02 or np.isfinite(value.array).all()):
            pool.append(out)
            self.values.append(value)
            self.steps.append((f, places, name))

    def pick(self, test=lambda v: True):
        """Return the place of a value that passes a test, the later the likelier; None if none."""
        places = [i for i, v in enumerate(self.values) if test(v)]
        if not places:
            return None
        weights = np.arange(1, len(places) + 1) ** 1.5
        return int(self.rng.choice(places, p=weights / weights.sum()))

    def axes(self, v, one=False):
        """Return some axes of a value, in either way of counting."""
        if not v.ndim:
            return None
        k = 1 if one else int(self.rng.integers(1, v.ndim + 1))
        chosen = self.rng.permutation(v.ndim)[:k].tolist()
        chosen = [a - v.ndim if self.rng.random() < 0.5 else a for a in chosen]
        if one or (k == 1 and self.rng.random() < 0.7):
            return chosen[0]
        return None if k == v.ndim and self.rng.random() < 0.5 else tuple(chosen)

    def of(self, *things):
        return things[self.rng.integers(len(things))]


def _maker(shape, dtype, kind):
    def make(rng, batch):
        sizes = tuple(batch if n == "B" else n for n in shape)
        if kind > 0.9:
            return rng.random(sizes) < 0.5
        if kind > 0.8:
            return rng.integers(0, 2, sizes)
        if kind > 0.72:
            return rng.integers(-5, 6, sizes).astype("int32")
        x = rng.normal(size=sizes)
        if kind > 0.65:  # ties, zeros and whole numbers
            x = np.round(x) + 0.0  # of +0 and -0, either is the larger
        return x.astype(dtype)

    return make


def is_batch(n):
    """Return whether the size of an axis comes from that of the batch."""
    return n > 12 and (n % BATCH == 0 or n % (BATCH + 1) == 0)


# Steps: each returns (op's name, function, places of inputs, whether it is exact), or None

MOVES = []


def move(weight=1):
    def enter(f):
        MOVES.extend([f] * weight)
        return f

    return enter


def near(x):
    """Return x in -0.9 to 0.9."""
    return nnx.tanh(x) * 0.9


def above(x):
    """Return x above 0.5."""
    return nnx.abs(x) + 0.5


ANYWHERE = (
    "negative", "positive", "abs", "square", "tanh", "sigmoid", "relu", "leaky_relu", "elu", "gelu",
    "silu", "softplus", "log_sigmoid", "erf", "erfc", "sin", "cos", "atan", "asinh",
)  # fmt: skip
SMALL = ("exp", "expm1", "sinh", "cosh")
GUARDED = {
    "sqrt": above, "log": above, "log1p": nnx.abs, "log2": above, "log10": above,
    "reciprocal": above, "asin": near, "acos": near, "atanh": near, "tan": near,
    "acosh": lambda x: nnx.abs(x) + 1.1,
}  # fmt: skip
KEEPING = ("negative", "positive", "abs", "relu")
JUMPING = ("floor", "ceil", "trunc", "round", "sign")
TESTS = ("isnan", "isinf", "isfinite", "signbit")


@move(5)
def unary(p):
    i = p.pick(lambda v: v.is_float)
    name = p.of(*ANYWHERE, *SMALL, *GUARDED)
    f = getattr(nnx, name)
    if name in GUARDED:
        guard = GUARDED[name]
        return name, lambda x: f(guard(x)), [i], False
    if name in SMALL and p.values[i].size > 5:
        return None
    return name, f, [i], name in KEEPING


@move(1)
def jumping(p):
    i = p.pick(lambda v: v.is_float and v.exact)
    name = p.of(*JUMPING, *TESTS)
    return name, getattr(nnx, name), [i], True


@move(1)
def whole_unary(p):
    i = p.pick(lambda v: v.kind in "ib")
    if i is None:
        return None
    if p.values[i].kind == "b":
        name = p.of("logical_not", "bitwise_invert")
    else:
        name = p.of("negative", "abs", "square", "bitwise_invert", "sign", "floor", "isfinite")
    return name, getattr(nnx, name), [i], True


@move(2)
def number(p):
    i = p.pick(lambda v: v.kind in "if")
    name, f = p.of(
        ("multiply", lambda x: x * 0.37), ("subtract", lambda x: 2 - x), ("add", lambda x: x + 3),
        ("pow", lambda x: x**2), ("divide", lambda x: x / 3), ("divide", lambda x: 1.5 / above(x)),
        ("maximum", lambda x: nnx.maximum(x, 0.25)), ("clip", lambda x: nnx.clip(x, -1, 1)),
        ("clip", lambda x: nnx.clip(x, None, 0.5)), ("pow", lambda x: above(x) ** -1.5),
        ("pow", lambda x: x**3),
    )  # fmt: skip
    return name, f, [i], name in ("maximum", "clip")


@move(5)
def binary(p):
    i = p.pick(lambda v: v.is_float)
    j = _partner(p, i, lambda v: v.kind in "ifb")
    if j is None:
        return None
    name, f, exact = p.of(
        *((n, getattr(nnx, n), False) for n in (
            "add", "subtract", "multiply", "add", "multiply", "hypot", "atan2", "logaddexp")),
        *((n, getattr(nnx, n), True) for n in ("maximum", "minimum")),
        ("divide", lambda x, y: x / above(y), False),
        ("pow", lambda x, y: nnx.pow(above(x), nnx.tanh(y)), False),
    )  # fmt: skip
    places = [i, j] if p.rng.random() < 0.5 or name in ("divide", "pow") else [j, i]
    if "b" in (p.values[i].kind + p.values[j].kind) and name in ("divide", "pow", "subtract"):
        return None
    return name, f, places, exact


@move(4)
def exact_binary(p):
    kind = p.of("f", "i", "ifb")
    i = p.pick(lambda v: v.exact and v.kind in kind)
    j = _partner(p, i, lambda v: v.exact and v.kind in kind)
    if j is None:
        return None
    kinds = p.values[i].kind + p.values[j].kind
    names = ["equal", "not_equal", "less", "less_equal", "greater", "greater_equal"]
    names += ["logical_and", "logical_or", "logical_xor"]
    if "f" in kinds and "b" not in kinds:
        names += ["copysign"] * 2 + ["rest", "quotient"] * 2
    if "f" not in kinds:
        names += ["bitwise_and", "bitwise_or", "bitwise_xor"] * 2
    if kinds == "ii":
        names = ["add", "multiply", "subtract", "maximum", "rest", "quotient"]
        names += ["left", "right", "bitwise_and", "less"]
    if kinds == "bb":
        names = ["equal", "logical_and", "logical_or", "bitwise_xor", "maximum", "add", "multiply"]
    name = p.of(*names)
    # Divisors that are whole for integers, and never 0.
    whole = p.values[j].kind == "i"
    divisor = (lambda y: nnx.abs(y) + 1) if whole else (lambda y: nnx.maximum(nnx.abs(y), 0.5))
    named = {
        "rest": ("remainder", lambda x, y: nnx.remainder(x, divisor(y))),
        "quotient": ("floor_divide", lambda x, y: nnx.floor_divide(x, divisor(y))),
        "left": ("bitwise_left_shift", lambda x, y: nnx.bitwise_left_shift(x, nnx.abs(y) % 4)),
        "right": ("bitwise_right_shift", lambda x, y: nnx.bitwise_right_shift(x, nnx.abs(y) % 4)),
    }
    name, f = named.get(name) or (name, getattr(nnx, name))
    # A remainder of floats is rounded where signs differ.
    return name, f, [i, j], name != "remainder"


def _partner(p, i, test):
    """Return a value that broadcasts with another, without a batch against another size."""
    if i is None:
        return None
    a = p.values[i].shape

    def fits(v):
        if not test(v):
            return False
        pairs = zip(a[::-1], v.shape[::-1], strict=False)
        return all(n == m or 1 in (n, m) for n, m in pairs)

    return p.pick(fits)


@move(2)
def where(p):
    c = p.pick(lambda v: v.kind == "b")
    if c is None:
        return None
    i = _partner(p, c, lambda v: v.is_float)
    if i is None:
        return None
    if p.rng.random() < 0.4:
        return "where", lambda c, x: nnx.where(c, x, 0.5), [c, i], True
    shape = np.broadcast_shapes(p.values[c].shape, p.values[i].shape)
    j = p.pick(lambda v: v.kind == "f" and v.shape in (shape, ()))
    return None if j is None else ("where", nnx.where, [c, i, j], True)


@move(4)
def reduction(p):
    names = ["sum", "sum", "mean", "max", "min", "var", "std", "logsumexp", "prod", "any", "all"]
    name = p.of(*names)
    i = p.pick(lambda v: v.is_float or (name in ("sum", "max", "min", "any", "all", "mean")))
    v = p.values[i]
    axis = p.axes(v)
    settings = {"axis": axis, "keepdims": bool(p.rng.random() < 0.4)}
    if name in ("any", "all") and not v.exact:
        return None
    if name == "prod":
        return name, lambda x: nnx.prod(nnx.tanh(x) + 1.1, **settings), [i], False
    if name in ("var", "std"):
        settings["correction"] = p.of(0.0, 0.0, 1.0)
    f = getattr(nnx, name)
    exact = name in ("max", "min", "any", "all") or (name == "sum" and v.kind in "ib")
    return name, lambda x: f(x, **settings), [i], exact


@move(1)
def choice(p):
    i = p.pick(lambda v: v.exact and v.kind in "fi")
    v = p.values[i]
    name = p.of("argmax", "argmin")
    axis = None if p.rng.random() < 0.3 else p.axes(v, one=True)
    keep = bool(p.rng.random() < 0.3)
    return name, lambda x: getattr(nnx, name)(x, axis=axis, keepdims=keep), [i], True


@move(2)
def running(p):
    i = p.pick(lambda v: v.ndim > 0 and v.kind in "fi")
    if i is None:
        return None
    v = p.values[i]
    axis = p.axes(v, one=True)
    name = p.of("cumulative_sum", "cumulative_sum", "cumulative_prod")
    initial = bool(p.rng.random() < 0.3) and (not is_batch(v.shape[axis]) or v.shape[axis] == BATCH)
    f = getattr(nnx, name)
    if name == "cumulative_prod":
        # Its gradient is unrolled, which asks for a size that Python knows.
        if is_batch(v.shape[axis]) or v.kind == "i":
            return None
        return name, lambda x: f(near(x) + 0.5, axis=axis, include_initial=initial), [i], False
    return name, lambda x: f(x, axis=axis, include_initial=initial), [i], v.kind == "i"


@move(3)
def rows(p):
    i = p.pick(lambda v: v.is_float and v.ndim > 0)
    if i is None:
        return None
    v = p.values[i]
    name = p.of("softmax", "log_softmax", "layer_norm", "layer_norm", "layer_norm_affine")
    if name == "layer_norm":
        return name, lambda x: nnx.layer_norm(x, None, None, 0.1), [i], False
    if name == "layer_norm_affine":
        w = p.pick(lambda u: u.is_float and u.shape == v.shape[-1:] and u.dtype == v.dtype)
        if w is None or is_batch(v.shape[-1]):
            return None
        return "layer_norm", lambda x, w: nnx.layer_norm(x, w, w, 0.1), [i, w], False
    axis = p.axes(v, one=True)
    return name, lambda x: getattr(nnx, name)(x, axis=axis), [i], False


@move(2)
def loss(p):
    i = p.pick(lambda v: v.is_float and v.ndim > 1)
    if i is None:
        return None
    v = p.values[i]
    name = p.of("cross_entropy", "cross_entropy", "mse", "half_mse", "mae", "huber",
                "binary_cross_entropy")  # fmt: skip
    how = p.of("mean", "sum", "none")
    if name == "cross_entropy":
        j = p.pick(lambda u: u.kind == "i" and u.shape == v.shape[:-1] and u.exact)
        if j is not None:
            return name, lambda x, y: nnx.cross_entropy(x, nnx.abs(y) % 2, how), [i, j], False
        f = lambda x: nnx.cross_entropy(x, nnx.softmax(x * 0.5, axis=-1), how)  # noqa: E731
        return name, f, [i], False
    j = p.pick(lambda u: u.is_float and u.shape == v.shape)
    f = getattr(nnx, name)
    if name == "binary_cross_entropy":
        return name, lambda x, y: f(x, nnx.sigmoid(y), how), [i, j], False
    if i == j:
        return None
    return name, lambda x, y: f(x, y, how), [i, j], False


@move(5)
def layout(p):
    i = p.pick(lambda v: v.ndim > 0)
    if i is None:
        return None
    v = p.values[i]
    n = v.ndim
    axis = p.axes(v, one=True)
    size = v.shape[axis]
    order = p.rng.permutation(n).tolist()
    name = p.of("permute_dims", "flip", "roll", "tile", "repeat", "expand_dims", "squeeze", "pad",
                "reshape", "triu", "tril", "broadcast_to", "flatten", "merge", "fold")  # fmt: skip
    shift, low, high = p.rng.integers(-3, 4), p.rng.integers(0, 3), p.rng.integers(0, 2)
    shift, low, high = int(shift), int(low), int(high)
    two = [(0, 0)] * n
    two[axis] = (low, high)
    at = order[0]
    made = {
        "permute_dims": lambda x: nnx.permute_dims(x, tuple(order)),
        "flip": lambda x: nnx.flip(x, axis=axis),
        "roll": lambda x: nnx.roll(x, shift, axis=axis),
        "tile": lambda x: nnx.tile(x, (2, *[1] * (n - 1))),
        "repeat": lambda x: nnx.repeat(x, 2, axis=axis),
        "expand_dims": lambda x: nnx.expand_dims(x, axis=at),
        "pad": lambda x: nnx.pad(x, tuple(two), 0.5 if v.is_float else 0),
        "triu": lambda x: nnx.triu(x, k=shift % 3 - 1),
        "tril": lambda x: nnx.tril(x, k=shift % 3 - 1),
        "broadcast_to": lambda x: nnx.broadcast_to(x, (2, *x.shape)),
        "flatten": lambda x: nnx.reshape(x, (-1,)),
        "merge": lambda x: nnx.reshape(x, (x.shape[0] * x.shape[1], *x.shape[2:])),
        "reshape": lambda x: nnx.reshape(x, (*x.shape[:-1], 1, x.shape[-1])),
        "squeeze": lambda x: nnx.squeeze(x, axis=v.shape.index(1)),
        "fold": lambda x: nnx.reshape(x, (*x.shape[:-1], 2, v.shape[-1] // 2)),
    }
    refused = {
        "triu": n < 2, "tril": n < 2, "merge": n < 2, "squeeze": 1 not in v.shape,
        "pad": is_batch(size) or v.kind == "b", "roll": is_batch(size) and abs(shift) > 2,
        "fold": is_batch(v.shape[-1]) or v.shape[-1] % 2,
    }  # fmt: skip
    if refused.get(name):
        return None
    named = {"flatten": "reshape", "merge": "reshape", "fold": "reshape"}
    return named.get(name, name), made[name], [i], True


@move(3)
def indexed(p):
    i = p.pick(lambda v: v.ndim > 0)
    if i is None:
        return None
    v = p.values[i]
    key = []
    for n in v.shape:
        items = [slice(None)]
        if not is_batch(n):
            items += [slice(1, None), slice(None, None, -1), slice(0, n, 2), slice(-2, None), -1, 0]
        else:
            items += [0, slice(None)]
        key.append(p.of(*items))
    if p.rng.random() < 0.2:
        key.insert(int(p.rng.integers(len(key) + 1)), None)
    if p.rng.random() < 0.2:
        key = [..., key[-1]] if key[-1] is not None else [..., None]
    key = tuple(key)
    return "getitem", lambda x: x[key], [i], True


@move(3)
def gathered(p):
    i = p.pick(lambda v: v.ndim > 0 and v.shape[0] > 1 and 0 not in v.shape)
    j = p.pick(lambda v: v.kind == "i" and v.exact and v.ndim < 3)
    if i is None or j is None:
        return None
    v = p.values[i]
    axis = p.axes(v, one=True)
    n = v.shape[axis]
    # In range for every batch: the last place is named from the end.
    stop = 2 if is_batch(n) else n
    index = lambda k: nnx.abs(k) % stop - (1 if stop > 1 else 0)  # noqa: E731
    where = axis % v.ndim
    name = p.of("take", "getitem", "mixed")
    if name == "take":
        if p.values[j].ndim != 1:
            return None
        return name, lambda x, k: nnx.take(x, index(k), axis=axis), [i, j], True
    if name == "mixed" and where > 0 and not is_batch(v.shape[0]):
        return "getitem", lambda x, k: x[(0, *[slice(None)] * (where - 1), index(k))], [i, j], True
    return "getitem", lambda x, k: x[(*[slice(None)] * where, index(k))], [i, j], True


@move(1)
def gathered_along(p):
    i = p.pick(lambda v: v.ndim > 0)
    if i is None:
        return None
    v = p.values[i]
    n = v.shape[-1]
    j = p.pick(
        lambda u: u.kind == "i" and u.exact and u.ndim == v.ndim and u.shape[:-1] == v.shape[:-1]
    )
    if j is None or is_batch(n) or n < 1:
        return None
    return (
        "take_along_axis",
        lambda x, k: nnx.take_along_axis(x, nnx.abs(k) % n, axis=-1),
        [i, j],
        True,
    )


@move(1)
def one_hot(p):
    j = p.pick(lambda v: v.kind == "i" and v.exact and v.ndim < 3)
    return j and ("one_hot", lambda k: nnx.one_hot(nnx.abs(k) % 4, 4), [j], True)


@move(2)
def together(p):
    i = p.pick(lambda v: v.ndim > 0)
    if i is None:
        return None
    v = p.values[i]
    axis = p.axes(v, one=True)
    name = p.of("concat", "stack", "concat")
    j = p.pick(lambda u: u.shape == v.shape and (u.kind == "b") == (v.kind == "b"))
    if name == "stack":
        return name, lambda x, y: nnx.stack([x, y, x], axis=axis), [i, j], True
    return name, lambda x, y: nnx.concat([x, y], axis=axis), [i, j], True


@move(1)
def cast(p):
    i = p.pick(lambda v: v.size < 100)
    v = p.values[i]
    dtype = p.of("float32", "float64", "float32", "int64", "int32", "bool")
    if dtype in ("int64", "int32", "bool") and not v.exact:
        return None
    exact = not (v.dtype == "float64" and dtype == "float32")
    return "astype", lambda x: x.astype(dtype), [i], exact


@move(4)
def product(p):
    i = p.pick(lambda v: v.is_float and v.ndim > 0)
    if i is None:
        return None
    v = p.values[i]
    n = v.shape[-1]
    name = p.of("matmul", "matmul", "turned", "batched", "linear", "vecdot", "outer", "whole")
    if name == "turned":  # x y^T, its two factors of one shape
        j = p.pick(lambda u: u.kind == "f" and u.ndim > 1 and v.ndim > 1 and u.shape[-1] == n
                   and u.ndim <= v.ndim and not is_batch(u.shape[0]))  # fmt: skip
        if j is None or p.values[j].ndim != 2:
            return None
        return "matmul", lambda x, y: nnx.matmul(x, nnx.matrix_transpose(y)), [i, j], False
    if name == "batched":
        j = p.pick(lambda u: u.is_float and u.ndim > 2 and u.shape[:-1] == v.shape[:-1])
        if j is None or v.ndim < 3:
            return None
        return "matmul", lambda x, y: nnx.matmul(nnx.matrix_transpose(x), y), [i, j], False
    if name == "outer":  # x^T y over the batch
        j = p.pick(lambda u: u.is_float and u.ndim == 2 and u.shape[0] == v.shape[0])
        if j is None or v.ndim != 2:
            return None
        return "matmul", lambda x, y: nnx.matrix_transpose(x) @ y, [i, j], False
    if name == "vecdot":
        j = p.pick(lambda u: u.is_float and u.shape == v.shape)
        return name, nnx.vecdot, [i, j], False
    if name == "whole":
        i = p.pick(lambda u: u.kind == "i" and u.ndim == 2)
        if i is None:
            return None
        return "matmul", lambda x: nnx.matmul(x, nnx.matrix_transpose(x)), [i], True
    j = p.pick(lambda u: u.is_float and u.ndim in (1, 2) and u.shape[0] == n)
    if j is None:
        return None
    if name == "linear":
        if p.values[j].ndim != 2:
            return None
        b = p.pick(lambda u: u.is_float and u.shape == p.values[j].shape[1:])
        return name, nnx.linear, [i, j] if b is None else [i, j, b], False
    return "matmul", nnx.matmul, [i, j], False


@move(1)
def tensordot(p):
    i = p.pick(lambda v: v.is_float and v.ndim > 1)
    j = p.pick(lambda v: v.is_float and v.ndim > 1)
    if i is None or p.values[i].shape[-1] != p.values[j].shape[0]:
        return None
    return "tensordot", lambda x, y: nnx.tensordot(x, y, axes=1), [i, j], False


if __name__ == "__main__":
    import sys

    from tests.tracing import Form, program_of

    program = Program(int(sys.argv[1]))
    given = [nnx.asarray(a, device="numba") for a in program.inputs(BATCH)]
    form = Form(program, given, BATCH)
    print(program, form.graph, program_of(form.lowered).source, sep="\n\n")
