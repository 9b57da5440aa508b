"""Reward functions that people write and that go wrong: (source, what becomes of it).

expected: scores of the three completions "a", "bb", "ccc" (None: missing), or a text that the one-line error has.
The function is called `f`; the row's column `tags` is a list.
"""
# ruff: noqa: E501  (a table: one function a line)

from __future__ import annotations

COLUMN = ["x", "y"]
ODD: dict[str, tuple[str, list[float | None] | str]] = {
    # ---- what is not a list of scores
    "set": ("def f(completions): return {1.0, 2.0, 3.0}", "gave set, not a list"),
    "frozenset": ("def f(completions): return frozenset((1.0, 2.0, 3.0))", "gave frozenset, not a list"),
    "dict by completion": ("def f(completions): return {c: 1.0 for c in completions}", "its keys would be taken"),
    "counter": ("from collections import Counter\ndef f(completions): return Counter(completions)", "gave Counter"),
    "digits": ("def f(completions): return '123'", "gave str, not a list"),
    "bytes": ("def f(completions): return b'123'", "gave bytes, not a list"),
    "one number": ("def f(completions): return 3.0", "gave float, not a list"),
    "nothing": ("def f(completions): pass", "gave NoneType, not a list"),
    "the function": ("def f(completions): return f", "gave function, not a list"),
    "a type": ("def f(completions): return list", "gave type, not a list"),
    "ellipsis": ("def f(completions): ...", "gave NoneType, not a list"),
    "dict views": ("def f(completions): return {c: len(c) for c in completions}.values()", [1.0, 2.0, 3.0]),
    "generator": ("def f(completions):\n    for c in completions: yield len(c)", [1.0, 2.0, 3.0]),
    "endless generator": ("import itertools\ndef f(completions): return itertools.count()", "gave more than 3 values"),
    "short generator": ("def f(completions): yield 1.0", "gave 1 values for 3"),
    "generator that fails": ("def f(completions):\n    yield 1.0\n    raise KeyError('k')", "KeyError: 'k' (r.py, line 3)"),
    "async generator": ("async def f(completions):\n    yield 1.0", "gave async_generator, not a list"),
    "range": ("def f(completions): return range(3)", [0.0, 1.0, 2.0]),
    "map": ("def f(completions): return map(len, completions)", [1.0, 2.0, 3.0]),
    "too many": ("def f(completions): return [0.0] * 4", "gave 4 values for 3"),
    "pairs": ("def f(completions): return [(1.0, 'good')] * 3", "gave (1.0, 'good'), which is not a number"),
    "nested": ("def f(completions): return [[1.0, 2.0, 3.0]]", "gave 1 values for 3"),
    "dicts": ("def f(completions): return [{'score': 1.0}] * 3", "which is not a number"),
    # ---- arrays
    "float16 array": ("import numpy as np\ndef f(completions): return np.array([1, 2, 3], np.float16)", [1.0, 2.0, 3.0]),
    "bool array": ("import numpy as np\ndef f(completions): return np.array([True, False, True])", [1.0, 0.0, 1.0]),
    "column": ("import numpy as np\ndef f(completions): return np.array([[1.], [2.], [3.]])", [1.0, 2.0, 3.0]),
    "row": ("import numpy as np\ndef f(completions): return np.ones((1, 3))", "an array of shape (1, 3)"),
    "matrix": ("import torch\ndef f(completions): return torch.ones(3, 2)", "an array of shape (3, 2)"),
    "no dimension": ("import torch\ndef f(completions): return torch.tensor(3.0)", "gave Tensor, not a list"),
    "bfloat16 with gradient": (
        "import torch\ndef f(completions): return torch.tensor([1., 2., 3.], dtype=torch.bfloat16, requires_grad=True) * 2",
        [2.0, 4.0, 6.0],
    ),
    "masked": ("import numpy as np\ndef f(completions): return np.ma.array([1., 2., 3.], mask=[0, 1, 0])", [1.0, None, 3.0]),
    "text array": ("import numpy as np\ndef f(completions): return np.array(['1', '2', '3'])", "not a number but text"),
    "complex array": ("import numpy as np\ndef f(completions): return np.ones(3) * 1j", "a complex one"),
    "objects": ("import numpy as np\ndef f(completions): return np.array([1, None, 2.5], object)", [1.0, None, 2.5]),
    "table": (
        "import pandas as pd\ndef f(completions): return pd.DataFrame({'a': [1, 2, 3], 'b': [4, 5, 6]})",
        "an array of shape (3, 2)",
    ),
    "table column": (
        "import pandas as pd\ndef f(completions): return pd.Series([1.5, None, 2.5], index=[9, 8, 7])",
        [1.5, None, 2.5],
    ),
    # ---- numbers
    "decimal": ("from decimal import Decimal\ndef f(completions): return [Decimal('0.5')] * 3", [0.5] * 3),
    "decimal NaN": ("from decimal import Decimal\ndef f(completions): return [Decimal('nan')] * 3", [None] * 3),
    "signalling NaN": ("from decimal import Decimal\ndef f(completions): return [Decimal('snan')] * 3", "not a number"),
    "fraction": ("from fractions import Fraction\ndef f(completions): return [Fraction(1, 4)] * 3", [0.25] * 3),
    "huge fraction": ("from fractions import Fraction\ndef f(completions): return [Fraction(-10**400)] * 3", [None] * 3),
    "huge integer": ("def f(completions): return [10**5000, 1, 2]", [None, 1.0, 2.0]),
    "1e308": ("def f(completions): return [1e308, -1e308, 1e18]", [None, None, 1e18]),
    "complex": ("def f(completions): return [1j, 2, 3]", "a complex one"),
    "complex without imaginary part": ("def f(completions): return [complex(1, 0)] * 3", "a complex one"),
    "text number": ("def f(completions): return ['0.5'] * 3", "not a number but text: give float(…) of it"),
    "NA": ("import pandas as pd\ndef f(completions): return [pd.NA, 1, 2]", [None, 1.0, 2.0]),
    "date": ("import datetime\ndef f(completions): return [datetime.date(2024, 1, 1)] * 3", "which is not a number"),
    "broken float": (
        "class X:\n    def __float__(self): raise OSError('disk')\n    def __repr__(self): raise OSError('again')\n"
        "def f(completions): return [X()] * 3",
        "gave a value of type X, which is not a number",
    ),
    "coroutines": ("async def one(c): return 1.0\ndef f(completions): return [one(c) for c in completions]", "not a number"),
    "async": ("async def f(completions): return [len(c) for c in completions]", [1.0, 2.0, 3.0]),
    # ---- ways to end
    "exit": ("import sys\ndef f(completions): sys.exit()", "left the program (sys.exit()) (r.py, line 2)"),
    "exit with words": ("def f(completions): raise SystemExit('no key')", "left the program (sys.exit(no key))"),
    "async exit": ("async def f(completions): raise SystemExit(0)", "left the program (sys.exit(0))"),
    "cancelled": ("import asyncio\nasync def f(completions): raise asyncio.CancelledError", "CancelledError"),
    "generator exit": ("def f(completions): raise GeneratorExit", "GeneratorExit"),
    "recursion": ("def f(completions): return f(completions)", "RecursionError"),
    "no memory": ("def f(completions): raise MemoryError", "MemoryError"),
    "stop iteration": ("def f(completions): return [next(iter([]))]", "StopIteration"),
    "group": ("def f(completions): raise ExceptionGroup('several', [ValueError('x')])", "ExceptionGroup: several"),
    "long message": ("def f(completions): raise ValueError('very long ' * 100_000)", "…"),
    "no message": ("def f(completions): raise ValueError", "f: ValueError (r.py, line 1)"),
    "lines": ("def f(completions): raise ValueError('a\\nb')", "ValueError: a b"),
    "broken message": (
        "class E(Exception):\n    def __str__(self): raise TypeError\ndef f(completions): raise E",
        "E: its text cannot be shown",
    ),
    # ---- arguments
    "singular names": ("def f(prompt, completion): return [1.0]", "Did you mean prompts for prompt, completions for completion?"),
    "own names": ("def f(questions, texts): return [1.0]", "needs questions, texts, which is not there"),
    "a column that is not there": ("def f(completions, answer): return [1.0] * 3", "needs answer, which is not there"),
    "by position": ("def f(completions, /): return [1.0] * 3", "by position only"),
    "no argument": ("def f(): return [1.0, 2.0, 3.0]", [1.0, 2.0, 3.0]),
    "stars": ("def f(*args, **kwargs): return [float(len(args))] * 3", [0.0] * 3),
    # ---- loading
    "class": ("class f:\n    def __call__(self, completions): return [1.0] * 3", "'f' is a class"),
    "instance": ("class F:\n    def __call__(self, completions): return [1.0] * 3\nf = F()", [1.0] * 3),
    "syntax": ("def f(completions) return 1", "fails: SyntaxError"),
    "tabs": ("def f(completions):\n\tif 1:\n        return 1", "fails: TabError"),
    "exit at import": ("raise SystemExit", "fails: SystemExit"),
    "import": ("import no_such_module_here\ndef f(completions): return [1.0] * 3", "No module named 'no_such_module_here'"),
    "value": ("f = 3", "'f' is a int, not a function"),
    "missing": ("def g(completions): return [1.0] * 3", "has no 'f'. It has: g"),
    # ---- logging
    "log_extra nan": (
        "def f(completions, log_extra):\n    log_extra('a', [float('nan'), 1.0, 10**400])\n    return [1.0] * 3",
        [1.0] * 3,
    ),
    "log_extra objects": ("def f(completions, log_extra):\n    log_extra('a', [object(), {1: {2}}, b'x'])\n    return [1.0] * 3", [1.0] * 3),
    "log_extra name": ("def f(completions, log_extra):\n    log_extra(5, [1, 2, 3])\n    return [1.0] * 3", "a column's name is text"),
    "log_extra turned": ("def f(completions, log_extra):\n    log_extra([1, 2, 3], 'a')\n    return [1.0] * 3", "a column's name is text"),
    "log_extra scalar": ("def f(completions, log_extra):\n    log_extra('a', 1.0)\n    return [1.0] * 3", "log_extra('a'): gave float"),
    "log_metric nan": ("def f(completions, log_metric):\n    log_metric('m', float('nan'))\n    return [1.0] * 3", [1.0] * 3),
    "log_metric text": ("def f(completions, log_metric):\n    log_metric('m', 'high')\n    return [1.0] * 3", "log_metric('m'): gave high"),
    "log_metric name": ("def f(completions, log_metric):\n    log_metric(None, 1.0)\n    return [1.0] * 3", "a metric's name is text"),
    # ---- side effects
    "mutates": (
        "def f(prompts, completions, tags):\n    n = len(completions)\n    tags[0].clear(); completions.clear(); prompts[0] = 'x'\n"
        "    return [1.0] * n",
        [1.0] * 3,
    ),
    "moves": ("import os\ndef f(completions):\n    os.chdir('/')\n    return [1.0] * 3", [1.0] * 3),
    "modes": (
        "import torch\ndef f(completions):\n    torch.set_default_dtype(torch.float64); torch.set_grad_enabled(False)\n"
        "    torch.set_num_threads(7); torch.use_deterministic_algorithms(False)\n    return [1.0] * 3",
        [1.0] * 3,
    ),
    "seeds": (
        "import random, numpy as np, torch\ndef f(completions):\n    random.seed(0); np.random.seed(0); torch.manual_seed(0)\n"
        "    return [1.0] * 3",
        [1.0] * 3,
    ),
}  # fmt: skip
