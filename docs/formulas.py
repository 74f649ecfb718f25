r"""Formulas of docstrings, which are plain text there, as LaTeX.

    F_att(S) = N/|S| sum_{i in S} A_i(S) * F_i      becomes      F_{att}(S) &= N/|S| \sum_{i \in S} A_{i}(S) * F_{i}

A paragraph that holds anything else, such as code or a listing of files, stays as it is.
"""

import re
from collections.abc import Iterator, Sequence

COMMANDS = (
    "lambda", "mu", "rho", "tau", "theta", "sigma", "phi", "sum", "prod", "max", "min", "log", "exp", "ln", "cos")
SIGNS = {">=": r"\ge ", "<=": r"\le ", "≤": r"\le ", "≥": r"\ge ", "||": r"\parallel ", "·": r"\cdot ",
         "×": r"\times ", "…": r"\dots ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∂": r"\partial ", "Σ": r"\sum",
         "τ": r"\tau ", "−": "-", "%": r"\%", **{one: one for one in "+-/*=()[];,!<|"}}
TOKEN = re.compile(r"""(?P<script>[_^](?:\{[^{}]*\}|\|\w+\||\*|S[+-](?=\()|-?[A-Za-z0-9]+(?:,[a-z0-9]+(?:[+-]1)?)*))
    |(?P<word>(?:[A-Za-z]{2,}|[A-Z](?=-[a-z]{2}))(?:-[A-Za-z]{2,})*\d*(?:x\d)*|[A-Z]\d+|(?<=[a-z]\ )a(?=\ [a-z]{2}))
    |(?P<letter>[A-Za-z])|(?P<number>\d+(?:\.\d+)?(?:e-?\d+)?)|(?P<sign>>=|<=|\|\||[^\sA-Za-z0-9_^{}])|(?P<space>\s+)
    """, re.VERBOSE)
ROW = re.compile(r"(?P<left>[^=<]*?)\s*(?P<sign>\+=|=|<-|^\+)\s+(?P<right>.+)$")


def latex(lines: Sequence[str]) -> str | None:
    r"""The rows of a paragraph, aligned at their relations, what stands beside them in columns of its own.

    Returns:
        None where one of the rows is no formula.

    >>> print(latex(["F_att = sum_{i in S} A_i * F_i     (eq. 2)"]))
    \begin{align*}
    F_{\text{att}} &= \sum_{i \in S} A_{i} * F_{i} && \text{(eq. 2)}
    \end{align*}
    >>> latex(["case.json   the grid"]) is None
    True
    """
    try:
        rows = [_row(line.strip()) for line in lines if line.strip()]
    except ValueError:
        return None
    return "\n".join([r"\begin{align*}", " \\\\\n".join(rows), r"\end{align*}"])


def _row(line: str) -> str:
    formula, *beside = re.split(r"\s{3,}", re.sub(r"\s+(\+?=|<-)\s", r" \1 ", line))
    found = ROW.match(formula)
    if not found:
        raise ValueError(line)
    sign = {"+=": "{+}=", "<-": r"\leftarrow"}.get(found["sign"], found["sign"])
    row = f"{_set(found['left'])} &{sign} {_set(found['right'])}".strip()
    for one in beside:
        row += r" \quad " if ROW.match(one) or "&&" in row else " && "
        row += _set(one) if ROW.match(one) else rf"\text{{{_plain(one)}}}"
    return row


def _set(text: str, inside: bool = False) -> str:
    """A formula, or what stands inside of a subscript, without alignment.

    Raises:
        ValueError: something in it is not known.
    """
    made = "".join(_pieces(text, inside)).strip()
    while (joined := re.sub(r"\\text\{([^{}]*)\}\\ \\text\{", r"\\text{\1 ", made)) != made:
        made = joined
    return made


def _pieces(text: str, inside: bool) -> Iterator[str]:
    place, before = 0, ""
    while place < len(text):
        found = TOKEN.match(text, place)
        if not found:
            raise ValueError(text)
        kind, token, place = found.lastgroup, found[0], found.end()
        if kind == "script":
            inner = token[1:].strip("{}")
            if before.isalpha() and len(before) > 1 and inner.isalpha() and len(inner) > 2:    # a name of a program
                raise ValueError(text)
            yield f"{token[0]}{{{_set(inner, inside=True)}}}"
        elif token in COMMANDS:
            yield f"\\{token}" + " " * text[place:place + 1].isalnum()
        elif token == "in" and inside:
            yield r"\in"
        elif token == "sqrt" and (under := re.match(r"\(((?:[^()]|\([^()]*\))*)\)", text[place:])):
            place += under.end()
            yield rf"\sqrt{{{_set(under[1])}}}"
        elif kind == "word":
            is_function = token.isalpha() and text[place:place + 1] in ("(", "_")
            yield rf"\{'operatorname' if is_function else 'text'}{{{token}}}"
        elif kind == "space":
            beside = TOKEN.match(text, place) or [""]
            known = (*COMMANDS, "sqrt", *["in"] * inside)
            words = any(re.match("[A-Za-z]{2}", one) and one not in known for one in (before, beside[0]))
            apart = re.search(r"[\w)\],]$", before) and re.match(r"[\w(|∂]", beside[0])
            yield r"\ " if words and apart else " "
        elif kind == "sign":
            if token not in SIGNS:
                raise ValueError(text)
            yield SIGNS[token]
        else:
            yield rf"\text{{{token}}}" if "e" in token and kind == "number" else token
        before = token


def _plain(text: str) -> str:
    if set(text) & set("\\{}$&#%"):
        raise ValueError(text)
    return text
