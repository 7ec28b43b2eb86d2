# Walks over a whole vocabulary of llama.cpp, by the addresses of its functions.

ctypedef uint8_t (*_Predicate)(void *, int32_t) noexcept


def find_tokens(size_t predicate, size_t vocab, int n_vocab):
    cdef _Predicate says_yes = <_Predicate>predicate
    cdef int32_t token
    return [token for token in range(n_vocab) if says_yes(<void *>vocab, token)]


ctypedef int32_t (*_ToPiece)(void *, int32_t, char *, int32_t, int32_t, uint8_t) noexcept


def all_pieces(size_t to_piece, size_t vocab, int n_vocab):
    cdef _ToPiece write = <_ToPiece>to_piece
    cdef char piece[256]
    cdef char *longer
    cdef int32_t token, size
    cdef list pieces = []
    for token in range(n_vocab):
        size = write(<void *>vocab, token, piece, sizeof(piece), 0, True)
        if size >= 0:
            pieces.append(piece[:size])
            continue
        longer = <char *>_allocate(-size)
        write(<void *>vocab, token, longer, -size, 0, True)
        pieces.append(longer[:-size])
        PyMem_Free(longer)
    return pieces
