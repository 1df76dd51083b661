# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""What `straight.py` generates in Python, compiled: the same bytes or a refusal too, by a program instead of source text."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from cpython.tuple cimport PyTuple_CheckExact, PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcmp

from instep_schemas cimport _encoders as codecs
from instep_schemas._encoders cimport MARGIN, Encode, Out, Text, varint, zigzag
from instep_schemas._output cimport NONE, Piece, Written, begin, piece, put, release, room, taken

cdef enum:
    ABSENT = -2  # the size of what was not sent, as `NONE`
    CONSTANT = -1  # the column of a step that has none
    NEAR_CELLS = 64  # as many are kept on the stack


cdef struct Step:
    Py_ssize_t column
    Encode encode  # NULL: only the Python codec
    int scale
    Piece some  # or the constant
    Piece none
    Piece guard
    PyObject* codec


cdef struct Steps:
    Step* first
    Py_ssize_t count


cdef Encode encoder_of(str kind):
    """The encoder in C of a codec's name; NULL: there is none."""
    names = (
        "text", "numeric_text", "int", "bool", "float", "double", "decimal", "variable", "date", "time_us", "time_ms",
        "timestamp_us", "timestamp_ms", "zoned", "bytea",
    )
    cdef Encode* encoders = [
        codecs.text, codecs.numeric_text, codecs.integer, codecs.boolean, codecs.float4, codecs.float8, codecs.decimal,
        codecs.variable, codecs.date, codecs.time_us, codecs.time_ms, codecs.timestamp_us, codecs.timestamp_ms,
        codecs.zoned, codecs.bytea,
    ]
    return encoders[<Py_ssize_t>names.index(kind)] if kind in names else NULL


cdef int fill(Steps* steps, list items, Py_ssize_t width) except -1:
    """Make steps of a program, whose items the caller keeps."""
    cdef Py_ssize_t at
    cdef Step* step
    steps.first = <Step*>PyMem_Calloc(len(items) + 1, sizeof(Step))
    if steps.first == NULL:
        raise MemoryError
    steps.count = len(items)
    for at in range(steps.count):
        step, item = &steps.first[at], items[at]
        if type(item) is bytes:
            step.column, step.some = CONSTANT, piece(item)
            continue
        kind, scale, column, some, none, guard, codec = item
        if not 0 <= column < width:
            raise IndexError("a column that the row does not have")
        step.column, step.scale, step.codec = column, scale, <PyObject*>codec
        step.encode = encoder_of(kind)
        step.some, step.none, step.guard = piece(some), piece(none), piece(guard)
    return 0


cdef int read_message(data, Py_ssize_t at, Py_ssize_t width, Piece* cells) except -1:
    """Find the columns of the one row that stands at `at` in a message, and ends it."""
    if not PyBytes_CheckExact(data):
        raise TypeError("not bytes")
    cdef Text text = <Text>PyBytes_AS_STRING(data)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
    cdef Py_ssize_t column, length
    for column in range(width):
        if at >= size:
            raise ValueError("the message ends too early")
        if text[at] == 116:  # t
            if size - at < 5:
                raise ValueError("the message ends too early")
            length = <Py_ssize_t>text[at + 1] << 24 | text[at + 2] << 16 | text[at + 3] << 8 | text[at + 4]
            at += 5
            if length > size - at:
                raise ValueError("the message ends too early")
            cells[column].start, cells[column].size = text + at, length
            at += length
        elif text[at] == 110 or text[at] == 117:  # n, u
            cells[column].size = NONE if text[at] == 110 else ABSENT
            at += 1
        else:
            raise ValueError("not a kind of value")
    if at != size:
        raise ValueError("the message goes on")
    return 0


cdef int read_row(data, Py_ssize_t width, Piece* cells) except -1:
    """Find the columns of a tuple of bytes and None."""
    cdef Py_ssize_t column
    cdef object cell
    if not PyTuple_CheckExact(data) or PyTuple_GET_SIZE(data) != width:
        raise ValueError("not a row of this width")
    for column in range(width):
        cell = <object>PyTuple_GET_ITEM(data, column)
        if cell is None:
            cells[column].size = NONE
        elif PyBytes_CheckExact(cell):
            cells[column] = piece(cell)
        else:
            cells[column].size = ABSENT
    return 0


cdef int ask(Step* step, Piece cell, Written* out) except -1:
    """Write what the Python codec gives."""
    encoded = (<object>step.codec)(PyBytes_FromStringAndSize(<char*>cell.start, cell.size))
    if not PyBytes_CheckExact(encoded):
        raise TypeError("a codec that gives no bytes")
    return put(out, piece(encoded))


cdef int put_cell(Step* step, Piece cell, Written* out) except -1:
    """Write one column."""
    cdef Py_ssize_t begun
    cdef Out at
    if cell.size == NONE:
        if step.none.size < 0:
            raise ValueError("null in a column that is NOT NULL")
        return put(out, step.none)
    if cell.size == ABSENT:
        raise ValueError("a value that was not sent")
    put(out, step.some)
    if step.encode == NULL:
        return ask(step, cell, out)
    room(out, cell.size + MARGIN)
    begun, at = out.at - out.start, step.encode(cell.start, cell.size, step.scale, out.at)
    if at == NULL:
        return ask(step, cell, out)
    out.at = at
    if step.guard.size == out.at - out.start - begun and not memcmp(step.guard.start, out.start + begun, step.guard.size):
        raise ValueError("a value that stands for an unchanged one")
    return 0


cdef int put_steps(Steps* steps, Piece* cells, Written* out) except -1:
    cdef Py_ssize_t at
    cdef Step* step
    for at in range(steps.count):
        step = &steps.first[at]
        if step.column == CONSTANT:
            put(out, step.some)
        else:
            put_cell(step, cells[step.column], out)
    return 0


def long(int64_t number):
    """See `_transcode.pyi`."""
    cdef unsigned char content[10]
    cdef Out end = zigzag(number, content)
    return PyBytes_FromStringAndSize(<char*>content, end - content)


@cython.no_gc_clear  # the steps point to what it holds
cdef class Transcoder:
    """See `_transcode.pyi`."""

    cdef list _programs
    cdef Py_ssize_t _head, _width
    cdef bint _keyed
    cdef Steps _key, _row
    cdef bytes _table, _letter, _front, _middle, _behind, _tail
    cdef object _source
    cdef Py_ssize_t _digits

    def __cinit__(self, head, Py_ssize_t width, key, row, bytes table not None, bytes letter not None):
        self._head, self._width = NONE if head is None else head, width
        self._keyed = key is not None
        self._programs = [list(key or ()), list(row)]  # whose bytes and codecs the steps point to
        fill(&self._key, self._programs[0], width)
        fill(&self._row, self._programs[1], width)
        self._table, self._letter = table, letter

    def __dealloc__(self):
        PyMem_Free(self._key.first)
        PyMem_Free(self._row.first)

    def write(self, data, lsn, source, bytes stamp not None):
        """See `_transcode.pyi`."""
        cdef Piece near[NEAR_CELLS]
        cdef Piece* cells = near
        cdef Written out
        begin(&out)
        if self._width > NEAR_CELLS:
            cells = <Piece*>PyMem_Malloc(self._width * sizeof(Piece))
            if cells == NULL:
                raise MemoryError
        try:
            if self._head < 0:
                read_row(data, self._width, cells)
            else:
                read_message(data, self._head, self._width, cells)
            key = None
            if self._keyed:
                put_steps(&self._key, cells, &out)
                key = taken(&out)
            put_steps(&self._row, cells, &out)
            self._put_source(lsn, source, &out)
            put(&out, piece(stamp))
            return key, taken(&out)
        finally:
            if cells != near:
                PyMem_Free(cells)
            release(&out)

    cdef int _put_source(self, lsn, source, Written* out) except -1:
        """Write the source block, see `envelope.SourceBlock.spot`, and what stands between it and the time stamp."""
        cdef uint64_t number = lsn, rest
        cdef unsigned char digits[20]
        cdef Piece shown
        if number >> 63:
            raise OverflowError("not an LSN")
        shown.start, rest = digits + 20, number
        shown.size = 0
        while True:
            shown.start -= 1
            (<Out>shown.start)[0] = <unsigned char>(48 + rest % 10)
            shown.size += 1
            rest //= 10
            if not rest:
                break
        if source is not self._source or shown.size != self._digits:
            self._look_at(source, lsn, shown.size)
        put(out, piece(self._front))
        put(out, shown)
        put(out, piece(self._middle))
        put(out, piece(self._table))
        put(out, piece(self._behind))
        room(out, MARGIN)
        out.at[0] = 2  # there is a position
        out.at = varint(number << 1, out.at + 1)
        put(out, piece(self._tail))
        return put(out, piece(self._letter))

    cdef int _look_at(self, source, lsn, Py_ssize_t digits) except -1:
        """Take what the changes of a transaction share."""
        self._digits = 0  # of no number, should this fail
        self._front, self._middle = source.spot(lsn)[0], source.middle
        self._behind, self._tail = source.behind, source.tail
        self._source, self._digits = source, digits
        return 0
