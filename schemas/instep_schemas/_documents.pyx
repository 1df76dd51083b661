# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""What `documentcode.py` generates in Python, compiled: PostgreSQL's JSON of a row, read as it stands, to Avro bytes."""

cimport cython
from cpython.bytes cimport PyBytes_CheckExact
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.object cimport PyObject
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.string cimport memchr, memcmp, memcpy

from instep_schemas cimport _encoders as codecs
from instep_schemas._encoders cimport DAY_US, MARGIN, NOTHING, Encode, Out, Text, varint, zigzag
from instep_schemas._output cimport Piece, Written, begin, piece, put, release, room, taken

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL

cdef enum:
    BLANK = 32
    QUOTE = 34
    BACKSLASH = 92


cdef struct Field:
    Piece name  # as it stands in front of the value: `"name":`
    Encode encode  # NULL: only the Python codec
    int scale
    bint quoted  # its JSON is a string
    bint optional
    PyObject* codec


cdef struct Reading:
    Text at
    Text end


cdef Out text(Text start, Py_ssize_t size, int scale, Out out) noexcept:
    """A JSON string's content without its escapes."""
    cdef Py_ssize_t at = 0
    cdef Py_ssize_t escapes = 0
    cdef Py_ssize_t run
    cdef const void* found
    cdef unsigned char letter
    if memchr(start, BACKSLASH, size) == NULL:
        return codecs.counted(start, size, out)
    while at < size:
        if start[at] == BACKSLASH:
            escapes += 1
            at += 1
        at += 1
    out = varint(<size_t>(size - escapes) << 1, out)
    at = 0
    while at < size:
        found = memchr(start + at, BACKSLASH, size - at)
        run = (size if found == NULL else <Text>found - start) - at
        memcpy(out, start + at, run)
        out += run
        at += run
        if found != NULL:
            letter = unescaped(start[at + 1])
            if not letter:
                return NULL
            out[0] = letter
            out += 1
            at += 2
    return out


cdef inline unsigned char unescaped(unsigned char letter) noexcept:
    """What an escape of one letter means; 0: it is one of more letters."""
    if letter == QUOTE or letter == BACKSLASH or letter == 47:
        return letter
    if letter == 110:
        return 10  # n
    if letter == 116:
        return 9  # t
    if letter == 114:
        return 13  # r
    if letter == 98:
        return 8  # b
    return 12 if letter == 102 else 0  # f


cdef Out whole(Text start, Py_ssize_t size, int scale, Out out) noexcept:
    """A number that fits 32 bits in any case."""
    return codecs.integer(start, size, scale, out) if size < 10 else NULL


cdef Out boolean(Text start, Py_ssize_t size, int scale, Out out) noexcept:
    if size == 4 and not memcmp(start, b"true", 4):
        out[0] = 1
    elif size == 5 and not memcmp(start, b"false", 5):
        out[0] = 0
    else:
        return NULL
    return out + 1


cdef Out moment(Text start, Py_ssize_t size, int scale, Out out) noexcept:
    """A timestamp in UTC or without a zone."""
    cdef codecs.int64_t day, clock
    if size >= 25 and not memcmp(start + size - 6, b"+00:00", 6):
        size -= 6
    if size < 19 or start[10] != 84:  # T
        return NULL
    day, clock = codecs.days(start), codecs.clock(start + 11, size - 11)
    return NULL if day == NOTHING or clock == NOTHING else zigzag(day * DAY_US + clock, out)


cdef Encode encoder_of(str kind):
    """The encoder of a field's kind; NULL: there is none."""
    names = ("text", "whole", "long", "digits", "boolean", "double", "decimal", "date", "time", "moment")
    cdef Encode* encoders = [
        text, whole, codecs.integer, codecs.numeric_text, boolean, codecs.float8, codecs.decimal, codecs.date,
        codecs.time_us, moment,
    ]
    return encoders[<Py_ssize_t>names.index(kind)] if kind in names else NULL


cdef Text string_end(Text at, Text end) noexcept:
    """Where the string that begins behind `at` has its closing quote; NULL: nowhere."""
    while True:
        at += 1
        if at >= end:
            return NULL
        if at[0] == QUOTE:
            return at
        if at[0] == BACKSLASH:
            at += 1


cdef Text value_end(Text at, Text end) noexcept:
    """Where the value that begins at `at` ends; NULL: nowhere."""
    cdef Py_ssize_t depth = 0
    while at < end:
        if at[0] == QUOTE:
            at = string_end(at, end)
            if at == NULL:
                return NULL
        elif at[0] == 91 or at[0] == 123:  # [ {
            depth += 1
        elif at[0] == 44 and not depth:  # ,
            return at
        elif at[0] == 93 or at[0] == 125:  # ] }
            if not depth:
                return at
            depth -= 1
        at += 1
    return NULL


cdef int expect(Reading* reading, Piece content) except -1:
    if reading.end - reading.at < content.size or memcmp(reading.at, content.start, content.size):
        raise ValueError("not the row's JSON")
    reading.at += content.size
    return 0


cdef int ask(Field* field, Text start, Text end, Written* out) except -1:
    """Write what the Python codec makes of the value's JSON."""
    encoded = (<object>field.codec)(PyUnicode_DecodeUTF8(<char*>start, end - start, NULL))
    if not PyBytes_CheckExact(encoded):
        raise TypeError("a codec that gives no bytes")
    return put(out, piece(encoded))


cdef int put_value(Field* field, Reading* reading, Written* out) except -1:
    """Write one column."""
    cdef Text start = reading.at
    cdef Text end = value_end(start, reading.end)
    cdef Out at
    if end == NULL:
        raise ValueError("the JSON ends too early")
    reading.at = end
    if field.optional and end - start == 4 and not memcmp(start, b"null", 4):
        room(out, 1)
        out.at[0] = 0
        out.at += 1
        return 0
    if start[0] <= BLANK or (end - 1)[0] <= BLANK:  # JSON may have them, PostgreSQL's has none
        return ask(field, start, end, out)
    if field.encode == NULL or field.quoted != (start[0] == QUOTE):
        return ask(field, start, end, out)
    room(out, end - start + MARGIN)
    at = out.at
    if field.optional:
        at[0] = 2
        at += 1
    at = field.encode(start + field.quoted, end - start - 2 * field.quoted, field.scale, at)
    if at == NULL:
        return ask(field, start, end, out)
    out.at = at
    return 0


@cython.no_gc_clear  # the fields point to what it holds
cdef class DocumentWriter:
    """See `_documents.pyi`."""

    cdef list _given
    cdef Field* _first
    cdef Py_ssize_t _count
    cdef bytes _begin, _next, _close, _end

    def __cinit__(self, fields, bytes end not None):
        cdef Py_ssize_t at
        cdef Field* field
        self._given, self._begin, self._next, self._close, self._end = list(fields), b"{", b",", b"}", end
        self._count = len(self._given)
        self._first = <Field*>PyMem_Calloc(self._count + 1, sizeof(Field))
        if self._first == NULL:
            raise MemoryError
        for at in range(self._count):
            field = &self._first[at]
            name, kind, scale, quoted, optional, codec = self._given[at]
            field.name, field.encode, field.codec = piece(name), encoder_of(kind), <PyObject*>codec
            field.scale, field.quoted, field.optional = scale, quoted, optional

    def __dealloc__(self):
        PyMem_Free(self._first)

    def write(self, str document not None):
        """See `_documents.pyi`."""
        cdef Py_ssize_t at
        cdef Py_ssize_t size = 0
        cdef Reading reading
        cdef Written out
        begin(&out)
        reading.at = <Text>PyUnicode_AsUTF8AndSize(document, &size)
        reading.end = reading.at + size
        try:
            for at in range(self._count):
                expect(&reading, piece(self._next if at else self._begin))
                expect(&reading, self._first[at].name)
                put_value(&self._first[at], &reading, &out)
            expect(&reading, piece(self._close))
            if reading.at != reading.end:
                raise ValueError("the JSON goes on")
            put(&out, piece(self._end))
            return taken(&out)
        finally:
            release(&out)
