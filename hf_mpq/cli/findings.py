"""What `hf-mpq doctor` finds."""

from dataclasses import dataclass

OK, NOTE, BROKEN = "ok", "note", "broken"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: what, `"ok"`, `"note"` or `"broken"`, and in words."""

    check: str
    state: str
    detail: str
