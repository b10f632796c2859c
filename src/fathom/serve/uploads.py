"""The picture in a request: read within a size limit, in memory only, and decoded or refused with the right status."""

import io
from collections.abc import AsyncGenerator

from PIL import Image, UnidentifiedImageError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from fathom.errors import InputError, MissingExtraError
from fathom.io import PICTURE_FORMATS, Picture, read_image
from fathom.serve.problems import ProblemError

PART_NAME = "picture"
"""Name of the part of a multipart upload that holds the picture."""

_MULTIPART_MARGIN = 16 * 1024
"""Room for boundaries and part headers around the picture [bytes]."""
_RAW_TYPES = ("image/", "application/octet-stream")


class _MemoryParser(MultiPartParser):
    """A parser that never spools a picture to disk; the stream it reads is limited already."""

    spool_max_size = 2**62


async def read_upload(request: Request, max_bytes: int) -> bytes:
    """Return the encoded picture that a request carries, raw or as the part `picture` of a form.

    Args:
        request: The request; its body is consumed.
        max_bytes: Largest picture [bytes].

    Raises:
        ProblemError: If the body is too large, of another type, malformed, or holds no picture part.
    """
    content_type = request.headers.get("content-type", "").lower()
    is_form = content_type.startswith("multipart/form-data")
    if not is_form and not content_type.startswith(_RAW_TYPES):
        raise ProblemError(
            "not-a-picture",
            f"Expected a body of type image/*, application/octet-stream or multipart/form-data; got "
            f"'{content_type[:60]}'. With curl: -F {PART_NAME}=@photo.jpg, "
            "or -H 'Content-Type: image/jpeg' --data-binary @photo.jpg.",
        )
    limit = max_bytes + (_MULTIPART_MARGIN if is_form else 0)
    stream = _limited(request, limit)
    return await _read_part(request, stream) if is_form else b"".join([chunk async for chunk in stream])


async def _limited(request: Request, limit: int) -> AsyncGenerator[bytes, None]:
    too_large = ProblemError(
        "too-large", f"Expected at most {limit / 2**20:.3g} MiB of picture; the upload is larger. Shrink it."
    )
    stated = request.headers.get("content-length", "")
    if stated.isdigit() and int(stated) > limit:
        raise too_large
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                raise too_large
            yield chunk
    except ClientDisconnect:
        raise ProblemError("bad-request", "The connection closed before the whole picture had come.") from None


async def _read_part(request: Request, stream: AsyncGenerator[bytes, None]) -> bytes:
    try:
        form = await _MemoryParser(request.headers, stream, max_files=1, max_fields=8).parse()
    except (MultiPartException, KeyError, UnicodeDecodeError, LookupError) as error:
        reason = getattr(error, "message", None) or "it is not well formed"
        raise ProblemError("bad-request", f"Expected a multipart form with one part '{PART_NAME}': {reason}") from None
    try:
        part = form.get(PART_NAME)
        others = sorted(name for name in form if name != PART_NAME)
        if others:
            names = ", ".join(repr(name[:40]) for name in others)
            raise ProblemError(
                "bad-option",
                f"Expected one part named '{PART_NAME}'; got {names} too. Options go into the address: ?format=glb.",
            )
        if not isinstance(part, UploadFile):
            raise ProblemError(
                "bad-option",
                f"Expected one part named '{PART_NAME}' that is a file; there is none. "
                f"With curl: -F {PART_NAME}=@photo.jpg.",
            )
        return await part.read()
    finally:
        await form.close()


def decode_picture(content: bytes, max_pixels: int) -> Picture:
    """Decode an uploaded picture.

    Args:
        content: The encoded picture.
        max_pixels: Largest picture [px].

    Raises:
        ProblemError: If it is no picture (415), too large (413) or damaged (422).
    """
    if not content:
        raise ProblemError("bad-option", "Expected a picture; the upload is empty. Send the bytes of a picture file.")
    try:
        return read_image(content, max_pixels=max_pixels, name="the upload")
    except MissingExtraError as error:
        raise ProblemError("not-a-picture", f"This server cannot read such pictures: {error}") from None
    except InputError as error:
        raise ProblemError(_kind_of_failure(content, max_pixels), str(error)) from None


def _kind_of_failure(content: bytes, max_pixels: int) -> str:
    """Say why `read_image` refused: from the header alone, nothing is decoded."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            known = {name.upper() for name in PICTURE_FORMATS} | {"MPO"}
            if image.format not in known:
                return "not-a-picture"
            return "too-large" if image.width * image.height > max_pixels else "damaged-picture"
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return "too-large"
    except UnidentifiedImageError:
        return "not-a-picture"
    except Exception:  # a decoder fed with damaged bytes raises nearly anything
        return "damaged-picture"
