"""How a process that runs networks on CPUs asks the system for memory."""

import ctypes
import os

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # mallopt(3)
_NEVER = 2**31 - 1


def keep_memory() -> None:
    """Keep what torch frees on a CPU for its next tensors, in large pages where the system lends them on request.

    By default glibc gives each large tensor's pages back, and the system fills the next one's with zeros again, 4 KiB
    at a time: a tenth of the time of an r3d_18. Values do not change; memory stays at its peak. For the whole process,
    and to be called before torch makes its first tensor; without glibc only the large pages are asked for.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, _NEVER)
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # read by torch's allocator
