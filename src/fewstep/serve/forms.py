"""A form with files, kept in memory: the framework would put large ones on the disk."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from fewstep.engine.request import RequestError
from fewstep.serve.wire import LARGEST_UPLOAD

MOST_FIELDS, MOST_FILES = 100, 20
GIVE = "give multipart/form-data"


class InMemory(MultiPartParser):
    """A parser whose files stay in memory: the body as a whole has a limit."""

    spool_max_size = LARGEST_UPLOAD + 1


@dataclass(frozen=True)
class Form:
    """The last value of each text field, and the first of each file."""

    fields: dict[str, str]
    files: dict[str, bytes]

    def file(self, *names: str) -> bytes:
        """The file by the first of ``names`` that there is. Raises RequestError if there is none."""
        for name in names:
            if name in self.files:
                return self.files[name]
        raise RequestError(f"{names[0]}: the form has no such file, give one")


async def read_form(request: Request) -> Form:
    """The form in the body. Raises RequestError on what is none, or has more than a hundred fields or twenty files."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise RequestError(f"the body is no form: {GIVE}")
    try:
        parsed = await InMemory(request.headers, request.stream(), max_files=MOST_FILES, max_fields=MOST_FIELDS).parse()
    except MultiPartException as problem:
        raise RequestError(f"the form cannot be read ({ascii(problem.message)[1:-1]}): {GIVE}") from None
    fields: dict[str, str] = {}
    files: dict[str, bytes] = {}
    for name, value in parsed.multi_items():
        if isinstance(value, UploadFile):
            files.setdefault(name, await value.read())
        else:
            fields[name] = value
    await parsed.close()
    return Form(fields, files)
