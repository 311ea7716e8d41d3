"""What goes wrong with a request before it reaches the part that it is for."""

from __future__ import annotations

from host.errors import BusbarError, ErrorKind


class ApiError(BusbarError):
    """Base of the errors of this folder."""

    code = "bad_request"
    kind = ErrorKind.INVALID


class BadRequestError(ApiError):
    """Query, form or body are not what the endpoint takes."""

    code = "request_invalid"


class BodyTooLargeError(ApiError):
    """More bytes than the endpoint takes."""

    code = "body_too_large"
    kind = ErrorKind.TOO_LARGE


class UnauthenticatedError(ApiError):
    """No token, or one that is not known (any more)."""

    code = "unauthenticated"
    kind = ErrorKind.UNAUTHENTICATED


class ForbiddenError(ApiError):
    """The token's role is not enough."""

    code = "forbidden"
    kind = ErrorKind.FORBIDDEN


class PluginAnswerError(ApiError):
    """A plugin answered a request with what cannot be sent."""

    code = "plugin_answer_invalid"
    kind = ErrorKind.UPSTREAM


class UnsupportedMediaError(ApiError):
    """The body's content type is not one that the endpoint reads."""

    code = "unsupported_media_type"
    kind = ErrorKind.UNSUPPORTED


class UnsupportedCodingError(UnsupportedMediaError):
    """The body's content coding is not one that is undone here."""

    code = "unsupported_content_encoding"


class NotFoundError(ApiError):
    """Nothing is there."""

    code = "not_found"
    kind = ErrorKind.NOT_FOUND
