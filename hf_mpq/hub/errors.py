"""What can go wrong between here and the Hub, in one sentence that says what to do."""

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

from .._compat import http_error


@contextmanager
def plain_errors(repo_id: str) -> Iterator[None]:
    """Errors of the Hub client become these:

    Raises:
        PermissionError: the token is refused, or may not write there.
        ConnectionError: the Hub cannot be reached, or fails.
        ValueError: `repo_id` cannot be a name.
    """
    try:
        yield
    except HFValidationError as error:
        raise ValueError(f"{repo_id!r} cannot be a name on the Hub: write owner/name, such as me/small-bert") from error
    except OfflineModeIsEnabled as error:
        raise ConnectionError(
            f"cannot push to {repo_id} while HF_HUB_OFFLINE is set: unset it and push again"
        ) from error
    except HfHubHTTPError as error:
        raise _answer(repo_id, error) from error
    except (http_error(), LocalEntryNotFoundError) as error:
        raise ConnectionError(
            f"{constants.ENDPOINT} cannot be reached ({type(error).__name__}): check the network and "
            "HF_ENDPOINT, and push again"
        ) from error


def missing_token(repo_id: str) -> PermissionError:
    """The error where nobody is logged in."""
    return PermissionError(
        f"pushing to {repo_id} needs a token that may write: run `hf auth login`, set HF_TOKEN, or give token=..."
    )


def _answer(repo_id: str, error: HfHubHTTPError) -> OSError:
    status = error.response.status_code
    if status == 401:
        return PermissionError(
            f"the Hub refuses the token for {repo_id}: make a new one with the right to write, and run `hf auth login`"
        )
    if status == 403:
        return PermissionError(
            f"this token may not write to {repo_id}: choose another name, or a token with the right to write there"
        )
    words = " ".join((error.server_message or "no reason given").split())
    return ConnectionError(f"the Hub answered {status} to a push to {repo_id} ({words}): try again later")
