"""
What boto3 raises, in words that help. boto3 itself is not needed here: its errors are told by their names and codes.
"""

from __future__ import annotations

from typing import Mapping

from ...errors import ConnectorError

# Raised by boto3 itself, before anything is sent.
_NO_CREDENTIALS = {"CredentialRetrievalError", "NoCredentialsError", "PartialCredentialsError", "ProfileNotFound"}
# Classes of what it raises when a connection cannot be made, breaks, or stays silent.
_NO_ANSWER = {"ConnectionError", "HTTPClientError", "IncompleteReadError", "OSError"}
# Codes that the service answers with, without what they begin ("AWS.SimpleQueueService.") or end with ("Exception") in
# one version of its protocol or another.
_DENIED = "AccessDenied"
_CREDENTIALS = {
    _DENIED, "ExpiredToken", "IncompleteSignature", "InvalidAccessKeyId", "InvalidClientTokenId", "InvalidSecurity",
    "InvalidSignature", "MissingAuthenticationToken", "NotAuthorized", "OptInRequired", "SignatureDoesNotMatch",
    "UnrecognizedClient",
}  # fmt: skip
_MISSING = {"NonExistentQueue", "QueueDoesNotExist", "QueueDeletedRecently"}
# Of the service itself, or of the one that keeps its keys: they pass, though some are called the fault of the sender.
_PASSING = {
    "InternalError", "InternalFailure", "KmsThrottled", "RequestThrottled", "ServiceUnavailable", "Throttling",
    "TooManyRequests",
}  # fmt: skip


class UnreachableError(ConnectorError):
    """
    The service did not answer.
    """


class RefusedError(ConnectorError):
    """
    The service answered with an error, or boto3 would not even ask it.
    """


class CredentialsError(RefusedError):
    """
    There are no credentials, or the service does not accept them for this.
    """


class QueueMissingError(RefusedError):
    """
    There is no such queue.
    """


class OverLimitError(RefusedError):
    """
    Too many messages are received and neither deleted nor visible again.
    """


def explain(error: BaseException, queue_url: str) -> ConnectorError:
    """
    Return *error*, from boto3, in words that help.
    """
    if isinstance(error, ConnectorError):
        return error
    if type(error).__name__ in _NO_CREDENTIALS:
        return CredentialsError(f"no credentials for {queue_url}: {error}")
    code = code_of(error)
    if not code and _NO_ANSWER.isdisjoint(cls.__name__ for cls in type(error).__mro__):
        return RefusedError(f"{queue_url} cannot be asked: {type(error).__name__}: {error}")
    if not code:
        return UnreachableError(f"no answer from {queue_url}: {type(error).__name__}: {error}")
    if code in _CREDENTIALS:
        return CredentialsError(f"credentials or permissions for {queue_url} are not sufficient: {error}")
    if code in _MISSING:
        return QueueMissingError(f"there is no queue {queue_url}, or not in this region or account: {error}")
    if code == "OverLimit":
        return OverLimitError(
            f"{queue_url} has as many messages in flight (received, neither deleted nor visible again) as SQS allows, "
            f"over all consumers; nothing is received until there are fewer: {error}"
        )
    return RefusedError(f"{queue_url} refused: {error}")


def code_of(error: BaseException) -> str:
    """
    Return the code of an error that the service answered with, in its short form; empty for any other error.
    """
    response = getattr(error, "response", None)
    code = response.get("Error", {}).get("Code") if isinstance(response, Mapping) else None
    return _shorten(str(code)) if code else ""


def _shorten(code: str) -> str:
    name = code.split(".")[-1]
    return name[: -len("Exception")] if name.endswith("Exception") else name


def is_denied(error: BaseException) -> bool:
    """
    Whether the service says that these credentials may not do this, or not read this.
    """
    return code_of(error) == _DENIED


def is_passing(code: str) -> bool:
    """
    Whether what the service says with *code* may be gone at the next attempt.
    """
    return _shorten(code) in _PASSING
