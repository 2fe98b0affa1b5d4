"""Settings of glibc's memory allocator for training on a CPU."""

import ctypes
import mmap
import os
import platform
import sys

HUGE_PAGE = 2**21
"""Bytes."""


def keep_freed_memory() -> None:
    """Make glibc keep freed memory, in huge pages, instead of returning large blocks to the kernel.

    Otherwise every activation of a training step is mapped, zeroed page by page and unmapped again. Call this
    before torch allocates. The reserved addresses take no memory until they are used.
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return
    m_trim_threshold, m_mmap_max, never = -1, -4, -1
    libc = ctypes.CDLL(None)
    libc.mallopt(m_mmap_max, 0)
    libc.mallopt(m_trim_threshold, never)
    libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    reserved = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    if block := libc.malloc(reserved):
        start = -(-block // HUGE_PAGE) * HUGE_PAGE
        libc.madvise(start, block + reserved - start, mmap.MADV_HUGEPAGE)  # where this fails: ordinary pages
        libc.free(block)  # becomes the top of the heap, from which all later blocks are cut
