# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""PostgreSQL's text of one value to its Avro bytes, in C: of each codec of `values.py` what nearly all texts look like.

An encoder gives where it stopped writing, or NULL for a text that looks otherwise: the column's Python codec then decides.
None reads beyond the text, or writes more than its size and `MARGIN` bytes. The caller holds the GIL.
"""

from cpython.exc cimport PyErr_Clear, PyErr_Occurred
from libc.math cimport isinf
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy

cdef extern from "Python.h":
    double PyOS_string_to_double(const char* text, char** end, void* overflow) noexcept

cdef extern from *:
    """
    typedef __int128 instep_wide;
    """
    ctypedef long long wide "instep_wide"

ctypedef const unsigned char* Text
ctypedef unsigned char* Out
ctypedef Out (*Encode)(Text text, Py_ssize_t size, int scale, Out out) noexcept

cdef enum:
    MARGIN = 32
    MOST_DIGITS = 38  # of a 128-bit number

cdef extern from *:
    """
    #define INSTEP_NOTHING INT64_MIN
    #define INSTEP_DAY_US INT64_C(86400000000)
    """
    const int64_t NOTHING "INSTEP_NOTHING"
    const int64_t DAY_US "INSTEP_DAY_US"


cdef inline Out varint(uint64_t number, Out out) noexcept:
    while number > 0x7F:
        out[0] = <unsigned char>(number | 0x80)
        out += 1
        number >>= 7
    out[0] = <unsigned char>number
    return out + 1


cdef inline Out zigzag(int64_t number, Out out) noexcept:
    return varint(<uint64_t>number << 1 ^ <uint64_t>(number >> 63), out)


cdef inline Out counted(Text text, Py_ssize_t size, Out out) noexcept:
    out = varint(<uint64_t>size << 1, out)
    memcpy(out, text, size)
    return out + size


cdef inline Out text(Text text, Py_ssize_t size, int scale, Out out) noexcept:
    return counted(text, size, out)


cdef inline Out numeric_text(Text text, Py_ssize_t size, int scale, Out out) noexcept:
    return counted(text, size, out) if size and is_digit(text[size - 1]) else NULL  # else NaN, Infinity


cdef inline bint is_digit(unsigned char letter) noexcept:
    return 48 <= letter <= 57


cdef inline int64_t digits(Text text, Py_ssize_t size) noexcept:
    """A number of at most 18 digits; -1: not only digits."""
    cdef Py_ssize_t at
    cdef int64_t number = 0
    for at in range(size):
        if not is_digit(text[at]):
            return -1
        number = number * 10 + (text[at] - 48)
    return number


cdef inline Out integer(Text text, Py_ssize_t size, int scale, Out out) noexcept:
    cdef bint minus = size > 0 and text[0] == 45
    cdef int64_t number
    if not 0 < size - minus <= 18:
        return NULL
    number = digits(text + minus, size - minus)
    return NULL if number < 0 else zigzag(-number if minus else number, out)


cdef inline Out boolean(Text text, Py_ssize_t size, int scale, Out out) noexcept:
    if size != 1 or (text[0] != 116 and text[0] != 102):
        return NULL
    out[0] = text[0] == 116
    return out + 1


cdef inline bint real(Text text, Py_ssize_t size, double* number) noexcept:
    """Read a float, as Python's `float` does; false: no plain number."""
    cdef Py_ssize_t at
    cdef char terminated[48]
    cdef char* end = NULL
    if not 0 < size < 48 or not is_digit(text[size - 1]) or not (is_digit(text[0]) or text[0] == 45):
        return False
    for at in range(size):
        if not (is_digit(text[at]) or text[at] in (43, 45, 46, 69, 101)):  # + - . E e
            return False
    memcpy(terminated, text, size)
    terminated[size] = 0
    number[0] = PyOS_string_to_double(terminated, &end, NULL)
    if PyErr_Occurred() != NULL:
        PyErr_Clear()
        return False
    return end == terminated + size


cdef inline void little_endian(uint64_t pattern, int size, Out out) noexcept:
    cdef Py_ssize_t at
    for at in range(size):
        out[at] = <unsigned char>(pattern >> 8 * at)


cdef inline Out float8(Text text, Py_ssize_t size, int scale, Out out) noexcept:
    cdef double number
    cdef uint64_t pattern
    if not real(text, size, &number) or isinf(number):
        return NULL
    memcpy(&pattern, &number, 8)
    little_endian(pattern, 8, out)
    return out + 8


cdef inline Out float4(Text text, Py_ssize_t size, int scale, Out out) noexcept:
    cdef double number
    cdef float narrow
    cdef unsigned int pattern
    if not real(text, size, &number):
        return NULL
    narrow = <float>number
    if isinf(narrow):
        return NULL
    memcpy(&pattern, &narrow, 4)
    little_endian(pattern, 4, out)
    return out + 4


cdef inline Out twos_complement(wide number, Out out) noexcept:
    """The number's length, and as few bytes as hold it with its sign."""
    cdef Py_ssize_t at
    cdef int size = 1
    while number >> 8 * size - 1 != (-1 if number < 0 else 0):
        size += 1
    out[0] = <unsigned char>(size << 1)
    for at in range(size):
        out[1 + at] = <unsigned char>(number >> 8 * (size - 1 - at))
    return out + 1 + size


cdef inline bint unscaled(Text text, Py_ssize_t size, Py_ssize_t point, wide* number) noexcept:
    """Read a number without its point, which stands at `point`; false: something else, or too long."""
    cdef Py_ssize_t at
    cdef bint minus = size > 0 and text[0] == 45
    cdef wide found = 0
    if not minus < point <= size or size - minus - (point < size) > MOST_DIGITS:
        return False
    for at in range(minus, size):
        if at == point:
            if text[at] != 46:
                return False
        elif is_digit(text[at]):
            found = found * 10 + (text[at] - 48)
        else:
            return False
    number[0] = -found if minus else found
    return True


cdef inline Out decimal(Text text, Py_ssize_t size, int scale, Out out) noexcept:
    cdef wide number
    if scale < 0 or not unscaled(text, size, size - scale - 1 if scale else size, &number):
        return NULL
    return twos_complement(number, out)


cdef inline Out variable(Text text, Py_ssize_t size, int scale, Out out) noexcept:
    cdef wide number
    cdef Py_ssize_t point = 0
    while point < size and text[point] != 46:
        point += 1
    if point + 1 == size or size == 0:
        return NULL
    while size > point + 1 and text[size - 1] == 48:  # trailing zeros
        size -= 1
    if size == point + 1:
        size = point
    if not unscaled(text, size, point, &number):
        return NULL
    return twos_complement(number, zigzag(size - point - 1 if size > point else 0, out))


cdef inline int64_t days(Text text) noexcept:
    """Days since 1970 of ten bytes, see `civil.days_from_civil`; `NOTHING`: not a date from year 1 to 9999."""
    cdef int64_t year = digits(text, 4)
    cdef int64_t month = digits(text + 5, 2)
    cdef int64_t day = digits(text + 8, 2)
    cdef int64_t era, of_era, of_year
    if year < 1 or not 1 <= month <= 12 or not 1 <= day <= 31 or text[4] != 45 or text[7] != 45:
        return NOTHING
    if month <= 2:
        year -= 1
    era = year // 400
    of_era = year - era * 400
    of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468


cdef inline int64_t clock(Text text, Py_ssize_t size) noexcept:
    """Microseconds since midnight; `NOTHING`: not a time before 24:00."""
    cdef int64_t hours, minutes, seconds, fraction = 0
    cdef Py_ssize_t at
    if size < 8 or size == 9 or size > 15 or text[2] != 58 or text[5] != 58:
        return NOTHING
    hours, minutes, seconds = digits(text, 2), digits(text + 3, 2), digits(text + 6, 2)
    if size > 8:
        fraction = digits(text + 9, size - 9)
        if fraction < 0 or text[8] != 46:
            return NOTHING
        for at in range(15 - size):
            fraction *= 10
    if not 0 <= hours < 24 or not 0 <= minutes < 60 or not 0 <= seconds < 60:
        return NOTHING
    return ((hours * 60 + minutes) * 60 + seconds) * 1_000_000 + fraction


cdef inline int64_t moment(Text text, Py_ssize_t size) noexcept:
    """Microseconds since 1970 of a timestamp without a time zone; or `NOTHING`."""
    cdef int64_t day, time
    if size < 19 or text[10] != 32:
        return NOTHING
    day, time = days(text), clock(text + 11, size - 11)
    return NOTHING if day == NOTHING or time == NOTHING else day * DAY_US + time


cdef inline int64_t floored(int64_t number, int64_t unit) noexcept:
    """The quotient, rounded down."""
    return number // unit if number >= 0 else -((unit - 1 - number) // unit)


cdef inline Out date(Text text, Py_ssize_t size, int scale, Out out) noexcept:
    cdef int64_t day = days(text) if size == 10 else NOTHING
    return NULL if day == NOTHING else zigzag(day, out)


cdef inline Out time_us(Text text, Py_ssize_t size, int scale, Out out) noexcept:
    cdef int64_t time = clock(text, size)
    return NULL if time == NOTHING else zigzag(time, out)


cdef inline Out time_ms(Text text, Py_ssize_t size, int scale, Out out) noexcept:
    cdef int64_t time = clock(text, size)
    return NULL if time == NOTHING else zigzag(time // 1000, out)


cdef inline Out timestamp_us(Text text, Py_ssize_t size, int scale, Out out) noexcept:
    cdef int64_t time = moment(text, size)
    return NULL if time == NOTHING else zigzag(time, out)


cdef inline Out timestamp_ms(Text text, Py_ssize_t size, int scale, Out out) noexcept:
    cdef int64_t time = moment(text, size)
    return NULL if time == NOTHING else zigzag(floored(time, 1000), out)


cdef inline Out zoned(Text text, Py_ssize_t size, int scale, Out out) noexcept:
    """A timestamptz in UTC as ISO text, the fraction padded to `scale` digits."""
    cdef Py_ssize_t at
    cdef Py_ssize_t length = 9 + scale if scale else 8
    cdef Py_ssize_t shown = size - 14  # of the clock
    if size < 22 or not 0 <= scale <= 6 or shown > length or moment(text, size - 3) == NOTHING:
        return NULL
    if text[size - 3] != 43 or text[size - 2] != 48 or text[size - 1] != 48:
        return NULL
    out = varint((length + 12) << 1, out)
    memcpy(out, text, 10)
    out[10] = 84  # T
    memcpy(out + 11, text + 11, shown)
    for at in range(shown, length):
        out[11 + at] = 46 if at == 8 else 48
    out[11 + length] = 90  # Z
    return out + 12 + length


cdef inline int nibble(unsigned char letter) noexcept:
    if is_digit(letter):
        return letter - 48
    return letter - 87 if 97 <= letter <= 102 else -1


cdef inline Out bytea(Text text, Py_ssize_t size, int scale, Out out) noexcept:
    cdef Py_ssize_t at
    cdef int high, low
    if size < 2 or size % 2 or text[0] != 92 or text[1] != 120:
        return NULL
    out = varint(size - 2, out)  # half of it, twice
    for at in range(2, size, 2):
        high, low = nibble(text[at]), nibble(text[at + 1])
        if high < 0 or low < 0:
            return NULL
        out[0] = <unsigned char>(high << 4 | low)
        out += 1
    return out
