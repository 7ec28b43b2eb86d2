# Memory from Python's allocator, with MemoryError where there is none. The caller owns it and frees it with PyMem_Free.


cdef void *_grown(void *memory, Py_ssize_t *capacity, Py_ssize_t wanted, size_t size) except? NULL:
    cdef void *grown
    if wanted <= capacity[0]:
        return memory
    wanted = max(<Py_ssize_t>64, 2 * wanted)
    grown = PyMem_Realloc(memory, wanted * size)
    if grown == NULL:
        raise MemoryError()
    capacity[0] = wanted
    return grown


cdef void *_allocate(size_t size) except NULL:
    cdef void *memory = PyMem_Malloc(max(size, <size_t>1))
    if memory == NULL:
        raise MemoryError()
    return memory
