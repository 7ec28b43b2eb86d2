"""A vocabulary of chosen pieces."""


class FakeVocab:
    """Token i is pieces[i]; it counts the calls."""

    def __init__(self, pieces: list[bytes], control: frozenset[int] = frozenset()) -> None:
        self.pieces = pieces
        self.control = control
        self.n_tokens = len(pieces)
        self.num_asked = 0

    def token_to_piece(self, token: int, special: bool = True) -> bytes:
        self.num_asked += 1
        return b"" if token in self.control and not special else self.pieces[token]
