# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""What `decode.compile_change_decoder` generates in Python, compiled: a framed envelope to operation and new row."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_SetItem
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.object cimport PyObject
from cpython.unicode cimport PyUnicode_DecodeASCII, PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcmp, memcpy

from instep.change import ABSENT
from instep_schemas._encoders cimport NOTHING, Out, Text, days
from instep_schemas._output cimport Piece, piece
from instep_schemas.changeprogram import ARRAY, BYTES, FIXED, RECORD, UNION, VARINT

cdef enum:
    MOST_BYTES = 8  # of a decimal that fits 64 bits

cdef object _absent = ABSENT
cdef int64_t _varint, _bytes, _fixed, _record, _union, _array
_varint, _bytes, _fixed, _record, _union, _array = VARINT, BYTES, FIXED, RECORD, UNION, ARRAY


cdef struct Reading:
    Text start
    Text at
    Text end


ctypedef object (*Read)(Field* field, Reading* reading)

cdef struct Field:
    PyObject* name
    int some  # the byte in front of a value; -1: it is never null
    Read read  # NULL: only the Python reader
    int scale
    Piece placeholder
    PyObject* reader


cdef inline int need(Reading* reading, int64_t count) except -1:
    """See to it that so many bytes are there."""
    if count < 0 or reading.end - reading.at < count:
        raise ValueError("the record ends too early")
    return 0


cdef inline int64_t number(Reading* reading) except? -1:
    """An int, long or length."""
    cdef uint64_t found = 0
    cdef int shift = 0
    while True:
        need(reading, 1)
        if shift == 63 and reading.at[0] > 1:
            raise ValueError("more than 64 bits")
        found |= <uint64_t>(reading.at[0] & 0x7F) << shift
        reading.at += 1
        if (reading.at - 1)[0] < 0x80:
            return <int64_t>(found >> 1) ^ -<int64_t>(found & 1)
        shift += 7


cdef inline Piece content(Reading* reading) except *:
    """A string or bytes."""
    cdef Piece found
    found.size = number(reading)
    need(reading, found.size)
    found.start = reading.at
    reading.at += found.size
    return found


cdef Py_ssize_t skip(const int64_t* code, Py_ssize_t at, Reading* reading) except -1:
    """Step over a value; gives where the program goes on."""
    cdef int64_t count, branch
    if code[at] == _varint:
        number(reading)
        return at + 1
    if code[at] == _bytes:
        content(reading)
        return at + 1
    if code[at] == _fixed:
        need(reading, code[at + 1])
        reading.at += code[at + 1]
        return at + 2
    if code[at] == _record:
        count = code[at + 1]
        at += 2
        while count:
            at = skip(code, at, reading)
            count -= 1
        return at
    if code[at] == _union:
        need(reading, 1)
        branch = reading.at[0] >> 1
        if reading.at[0] & 1 or branch >= code[at + 2]:
            raise ValueError("no such branch")
        reading.at += 1
        skip(code, at + code[at + 3 + branch], reading)
        return at + code[at + 1]
    skip_blocks(code, at + 2, reading)
    return at + code[at + 1]


cdef int skip_blocks(const int64_t* code, Py_ssize_t item, Reading* reading) except -1:
    """Step over an array or map."""
    cdef int64_t count
    while True:
        count = number(reading)
        if count < 0:
            count = -count
            number(reading)
        if not count:
            return 0
        need(reading, count)  # no item is empty, or the Python decoder decides
        while count:
            skip(code, item, reading)
            count -= 1


cdef str digits_of(int64_t value, int scale):
    """A number as text, with so many digits behind the point."""
    cdef unsigned char shown[48]
    cdef Out at = shown + 48
    cdef uint64_t rest = -<uint64_t>value if value < 0 else <uint64_t>value
    cdef int written = 0
    while rest or written <= scale:
        if written == scale and scale:
            at -= 1
            at[0] = 46
        at -= 1
        at[0] = <unsigned char>(48 + rest % 10)
        rest //= 10
        written += 1
    if value < 0:
        at -= 1
        at[0] = 45
    return PyUnicode_DecodeASCII(<char*>at, shown + 48 - at, NULL)


cdef object read_number(Field* field, Reading* reading):
    return digits_of(number(reading), 0)


cdef object read_boolean(Field* field, Reading* reading):
    need(reading, 1)
    reading.at += 1
    return "t" if (reading.at - 1)[0] else "f"


cdef object read_text(Field* field, Reading* reading):
    cdef Piece found = content(reading)
    return PyUnicode_DecodeUTF8(<char*>found.start, found.size, NULL)


cdef object read_decimal(Field* field, Reading* reading):
    cdef Piece found = content(reading)
    cdef int64_t value
    cdef Py_ssize_t at
    if not 0 < found.size <= MOST_BYTES:
        raise ValueError("not a number of 64 bits")
    value = <signed char>found.start[0]
    for at in range(1, found.size):
        value = <int64_t>(<uint64_t>value << 8 | found.start[at])
    return digits_of(value, field.scale)


cdef object read_zoned(Field* field, Reading* reading):
    """Debezium's ZonedTimestamp, see `texts.zoned_text`; only of four-digit years after Christ, in UTC."""
    cdef Piece found = content(reading)
    cdef unsigned char shown[32]
    cdef Py_ssize_t size = found.size - 1
    if not 20 <= found.size <= 30 or found.start[size] != 90 or found.start[10] != 84:  # Z, T
        raise ValueError("not an ordinary time")
    if days(found.start) == NOTHING:
        raise ValueError("not an ordinary day")
    if size > 19 and found.start[19] == 46:
        while found.start[size - 1] == 48:
            size -= 1
        if found.start[size - 1] == 46:
            size -= 1
    memcpy(shown, found.start, size)
    shown[10] = 32
    memcpy(shown + size, b"+00", 3)
    return PyUnicode_DecodeASCII(<char*>shown, size + 3, NULL)


cdef Read reader_of(str kind):
    """The reader of a kind; NULL: there is none."""
    names = ("text", "number", "boolean", "decimal", "zoned")
    cdef Read* readers = [read_text, read_number, read_boolean, read_decimal, read_zoned]
    return readers[<Py_ssize_t>names.index(kind)] if kind in names else NULL


cdef object read_field(Field* field, Reading* reading, bytes data):
    if field.some >= 0:
        need(reading, 1)
        reading.at += 1
        if (reading.at - 1)[0] != field.some:
            return None
    if 0 <= field.placeholder.size <= reading.end - reading.at:
        if not memcmp(reading.at, field.placeholder.start, field.placeholder.size):
            reading.at += field.placeholder.size
            return _absent
    if field.read != NULL:
        return field.read(field, reading)
    found, end = (<object>field.reader)(data, reading.at - reading.start)
    if not reading.at - reading.start <= <Py_ssize_t>end <= reading.end - reading.start:
        raise ValueError("a value that ends outside of the record")
    reading.at = reading.start + <Py_ssize_t>end
    return found


@cython.no_gc_clear  # the fields point to what it holds
cdef class ChangeReader:
    """See `_changes.pyi`."""

    cdef list _held
    cdef Py_ssize_t _front, _begin, _count
    cdef int _some
    cdef bint _op_first
    cdef int64_t* _code
    cdef Field* _first
    cdef dict _ops
    cdef object _python

    def __cinit__(self, Py_ssize_t frame, program, dict ops not None, python):
        before, between, some, fields, self._op_first = program
        code = [*before, *between]
        cdef Py_ssize_t at
        self._held, self._ops, self._python, self._some = list(fields), ops, python, some
        self._begin, self._front, self._count = frame, len(before), len(self._held)
        self._code = <int64_t*>PyMem_Calloc(len(code) + 1, sizeof(int64_t))
        self._first = <Field*>PyMem_Calloc(self._count + 1, sizeof(Field))
        if self._code == NULL or self._first == NULL:
            raise MemoryError
        for at in range(len(code)):
            self._code[at] = code[at]
        for at in range(self._count):
            self._fill(&self._first[at], self._held[at])

    cdef int _fill(self, Field* field, given) except -1:
        name, kind, some, scale, placeholder, reader = given
        field.name, field.some, field.scale = <PyObject*>name, some, scale
        field.read, field.placeholder, field.reader = reader_of(kind), piece(placeholder), <PyObject*>reader
        return 0

    def __dealloc__(self):
        PyMem_Free(self._code)
        PyMem_Free(self._first)

    def read(self, data):
        """See `_changes.pyi`."""
        try:
            return self._read(data)
        except Exception:
            return self._python(data)

    cdef tuple _read(self, data):
        cdef Reading reading
        if not PyBytes_CheckExact(data):
            raise TypeError("not bytes")
        reading.start = <Text>PyBytes_AS_STRING(data)
        reading.end = reading.start + PyBytes_GET_SIZE(data)
        reading.at = reading.start
        need(&reading, self._begin)
        reading.at += self._begin
        if self._front:
            skip(self._code, 0, &reading)
        if self._op_first:
            op = self._op(&reading)
            skip(self._code, self._front, &reading)
            return op, self._row(&reading, data)
        row = self._row(&reading, data)
        skip(self._code, self._front, &reading)
        return self._op(&reading), row

    cdef object _op(self, Reading* reading):
        cdef Piece found = content(reading)
        return self._ops[PyUnicode_DecodeUTF8(<char*>found.start, found.size, NULL)]

    cdef object _row(self, Reading* reading, bytes data):
        cdef Py_ssize_t at
        cdef dict row
        need(reading, 1)
        reading.at += 1
        if (reading.at - 1)[0] != self._some:
            return None
        row = {}
        for at in range(self._count):
            PyDict_SetItem(row, <object>self._first[at].name, read_field(&self._first[at], reading, data))
        return row
