"""Output that outlives its reader.

A terminal may be closed, and the `tee` behind a pipe may be killed. Writing then fails, but a run
has its results in its folder, and must save them.
"""

import errno
import io
import os
import stat
from typing import Any, TextIO

NO_READER = (errno.EIO, errno.EPIPE)  # of a terminal, and of a pipe


class _Lasting(io.FileIO):
    """A terminal or a pipe; what nobody can read any more is dropped."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in NO_READER:
                raise
            return memoryview(data).nbytes


def outliving(stream: TextIO) -> TextIO:
    """Return a stream that writes to the same place, and survives its terminal or pipe.

    A regular file keeps its errors: they are those of a disk.
    """
    if not isinstance(stream, io.TextIOWrapper) or stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        return stream
    raw = _Lasting(stream.fileno(), "wb", closefd=False)
    return io.TextIOWrapper(
        raw if stream.write_through else io.BufferedWriter(raw),  # as Python does with -u
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
