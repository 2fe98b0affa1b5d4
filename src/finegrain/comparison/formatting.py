"""Numbers as the report, the Markdown tables and the model card show them."""

from typing import Any

METRIC_NAMES = {
    "top1": "top-1",
    "mean_class_accuracy": "mean class accuracy",
    "macro_f1": "macro-F1",
    "loss": "loss",
}
"""The metrics that ``choose_by`` may name."""


def metric_value(metric: str, value: float, digits: int = 2) -> str:
    """A metric as text: in percent, or a loss in nats."""
    return f"{value:.3f}" if metric == "loss" else percent(value, digits)


def metric_difference(metric: str, difference: float) -> str:
    """A difference of a metric as text, with its sign: in percentage points, or of a loss in nats."""
    return _minus(f"{difference:+.3f}") if metric == "loss" else points(difference)


def seeds(metric: str, row: dict[str, Any]) -> str:
    """Number of seeds, and the standard deviation of a test metric between them, in points or nats."""
    seed_sd = row[f"test_{metric}_sd"]
    if seed_sd is None:
        return str(row["seeds"])
    return f"{row['seeds']} (sd {f'{seed_sd:.3f}' if metric == 'loss' else f'{seed_sd * 100:.1f}'})"


def percent(share: float, digits: int = 2) -> str:
    """Such as 12.34 %, with a no-break space."""
    return f"{share * 100:.{digits}f}\N{NO-BREAK SPACE}%"


def points(share: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    return _minus(f"{share * 100:+.1f}")


def _minus(number: str) -> str:
    return number.replace("-", "\N{MINUS SIGN}")


def duration(seconds: float) -> str:
    """Text such as 12.3 s, 4 min 05 s or 3 h 07 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def count(number: float) -> str:
    """Text such as 1,234 or 25.6 M."""
    return f"{number / 1e6:,.1f} M" if number >= 1e6 else f"{number:,.0f}"


def size(number: float) -> str:
    """A number of bytes as text such as 123 MiB or 1.50 GiB."""
    return f"{number / 2**30:,.2f} GiB" if number >= 2**30 else f"{number / 2**20:,.0f} MiB"


def p_value(p: float) -> str:
    """Text to follow "p", such as = 0.012 or < 0.001."""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"
