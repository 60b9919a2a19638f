"""The only place that looks at versions of other libraries."""

from functools import cache
from importlib.metadata import version

from packaging.version import Version

OLDEST_TRANSFORMERS = "5.6.2"
"""Before 5.6, checkpoints of BERT resumed without their LayerNorms; 5.6.2 is the oldest that is tested."""


@cache
def check_transformers() -> None:
    """Raise ImportError when transformers is older than what is supported."""
    installed = version("transformers")
    if Version(installed) < Version(OLDEST_TRANSFORMERS):
        raise ImportError(
            f"hf_mpq needs transformers>={OLDEST_TRANSFORMERS}, found {installed}: pip install -U transformers"
        )


def http_error() -> type[Exception]:
    """What the Hub's client raises where no answer comes: httpx's error before huggingface_hub 2, httpx2's since."""
    from huggingface_hub.errors import HfHubHTTPError

    return HfHubHTTPError.__bases__[0]
