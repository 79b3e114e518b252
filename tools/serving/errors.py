"""Errors as gRPC and HTTP have them."""

import tensorflow as tf

# As TensorFlow Serving maps gRPC's codes; others are 500.
HTTP_STATUS = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "NOT_FOUND": 404,
    "UNIMPLEMENTED": 501,
    "RESOURCE_EXHAUSTED": 429,
    "UNAVAILABLE": 503,
}
_CODES = {
    tf.errors.InvalidArgumentError: "INVALID_ARGUMENT",
    tf.errors.FailedPreconditionError: "FAILED_PRECONDITION",
    tf.errors.OutOfRangeError: "OUT_OF_RANGE",
    tf.errors.NotFoundError: "NOT_FOUND",
    tf.errors.UnimplementedError: "UNIMPLEMENTED",
    tf.errors.ResourceExhaustedError: "RESOURCE_EXHAUSTED",
    tf.errors.UnavailableError: "UNAVAILABLE",
}


class ServingError(Exception):
    """A request that is not answered.

    Attributes:
        code: str. gRPC's name of what is wrong.
        message: str. For whoever sent it.
    """

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code
        self.message = message

    @property
    def http_status(self):
        """int. HTTP's number of what is wrong."""
        return HTTP_STATUS.get(self.code, 500)

    @classmethod
    def of(cls, error):
        """The same as TensorFlow's error says."""
        code = next((c for kind, c in _CODES.items() if isinstance(error, kind)), "INTERNAL")
        return cls(code, error.message)


def invalid(message):
    """A `ServingError` for a request that is wrong in itself."""
    return ServingError("INVALID_ARGUMENT", message)
