"""What a client is told."""

from __future__ import annotations

from ovseg_ray.errors import UserError
from ovseg_ray.serving.api import Problem


class EndpointError(UserError):
    """The endpoint refused a request, or could not be reached.

    Attributes:
        code: stable name of the error, as in `Problem`; "unreachable" where there was no answer at all.
        status: of HTTP; 0 where there was no answer.
        problem: all that the endpoint said, if it said it in its own form.
    """

    def __init__(self, code: str, detail: str, status: int = 0, problem: Problem | None = None) -> None:
        super().__init__(detail)
        self.code, self.status, self.problem = code, status, problem

    @classmethod
    def of(cls, problem: Problem) -> EndpointError:
        """A problem as an exception."""
        return cls(problem.code, f"{problem.title}: {problem.detail}", problem.status, problem)
