# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Bytes that a record is made of, and the buffer of one call in which it is made."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from libc.string cimport memcpy

from instep_schemas._encoders cimport Out, Text

cdef enum:
    NONE = -1  # the size of what is no text: null, or nothing at all
    NEAR_BYTES = 1024  # as many are kept on the stack


cdef struct Piece:
    Text start
    Py_ssize_t size


cdef struct Written:
    Out start
    Out at
    Out end
    unsigned char near[NEAR_BYTES]


cdef inline Piece piece(bytes content):
    """Of an object that somebody else keeps."""
    cdef Piece made
    made.start, made.size = NULL, NONE
    if content is not None:
        made.start, made.size = <Text>PyBytes_AS_STRING(content), PyBytes_GET_SIZE(content)
    return made


cdef inline void begin(Written* out) noexcept:
    """Nothing is written yet; end with `release`."""
    out.start = out.at = out.near
    out.end = out.start + NEAR_BYTES


cdef inline void release(Written* out) noexcept:
    if out.start != out.near:
        PyMem_Free(out.start)


cdef inline int grow(Written* out, Py_ssize_t more) except -1:
    cdef Py_ssize_t used = out.at - out.start
    cdef Py_ssize_t size = 2 * (used + more)
    cdef Out start = <Out>(PyMem_Malloc(size) if out.start == out.near else PyMem_Realloc(out.start, size))
    if start == NULL:
        raise MemoryError
    if out.start == out.near:
        memcpy(start, out.near, used)
    out.start, out.at, out.end = start, start + used, start + size
    return 0


cdef inline int room(Written* out, Py_ssize_t more) except -1:
    """See to it that so many bytes can be written."""
    return grow(out, more) if out.end - out.at < more else 0


cdef inline int put(Written* out, Piece content) except -1:
    if content.size < 0:
        raise TypeError("not bytes")
    room(out, content.size)
    memcpy(out.at, content.start, content.size)
    out.at += content.size
    return 0


cdef inline bytes taken(Written* out):
    """What was written; begin anew."""
    content = PyBytes_FromStringAndSize(<char*>out.start, out.at - out.start)
    out.at = out.start
    return content
