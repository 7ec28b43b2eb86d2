# cython: boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The parts of the Cython core, in core/: one extension, small files. Types and meaning are in _core.pyi.

ring.pxi     TokenRing, the shared-memory ring between a worker and the router
cancel.pxi   CancelWatch, for llama.cpp in the middle of a decode
memory.pxi   memory that grows, with MemoryError where there is none
sink.pxi     Sink, where the records of a request go; TextCollector, for whole answers; EventLog, ItlHistogram
sse.pxi      SseWriter, for streams
request.pxi  Request, HttpError, BodyBuffer
http.pxi     RequestParser
scan.pxi     scan_json, which looks at a request's JSON before it is parsed
pick.pxi     the few candidates of a row of logits, and the usual draw
chain.pxi    the other steps of a sampling chain; Breakers
sample.pxi   LogitSampler: the next token from a row of logits
vocab.pxi    find_tokens, all_pieces
lookup.pxi   Lookup: what followed the last tokens of a text before
gguf.pxi     skip_strings, over a vocabulary in a file's header

Bounds checks are off in this extension: all indexing is of C memory, and each place says why it stays inside. The GIL is held
throughout, except where scan_json reads bytes that never change; nothing here is shared between threads.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.ref cimport Py_XDECREF, PyObject
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from libc.float cimport FLT_MAX
from libc.math cimport INFINITY, exp, isfinite, log2
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport free
from libc.string cimport memchr, memcmp, memcpy, memset

import os

import httptools

from fastrouter.errors import InvalidRequest, ProtocolError, Unavailable

cpdef enum:  # kinds of the ring's records: first those with text, and the first two of these are only text
    TEXT = 1
    REASONING = 2
    EVENT = 3
    PROGRESS = 4
    FINISH = 5
    ERROR = 6

cpdef enum:  # flags of a record
    LAST = 1

include "core/memory.pxi"
include "core/sink.pxi"
include "core/sse.pxi"
include "core/ring.pxi"
include "core/cancel.pxi"
include "core/scan.pxi"
include "core/request.pxi"
include "core/http.pxi"
include "core/pick.pxi"
include "core/chain.pxi"
include "core/sample.pxi"
include "core/vocab.pxi"
include "core/lookup.pxi"
include "core/gguf.pxi"
