"""What goes into the batch of one llama_decode: a row for each sequence that decodes, with its guess, then pieces of prompts."""

import time
from collections.abc import Sequence

import numpy as np

from fastrouter.worker.llama.batch import Batch
from fastrouter.worker.schedule.scheduler import Piece
from fastrouter.worker.sequence import Running


def put_decoding(batch: Batch, decoding: Sequence[Running]) -> int:
    """Returns the number of rows."""
    token, pos, seq, wants_logits = batch.token, batch.pos, batch.seq, batch.logits
    row = 0
    for running in decoding:
        sequence, slot = running.sequence, running.slot
        token[row] = sequence.next_token
        pos[row] = next_pos = len(slot.tokens) - slot.num_in_place
        seq[row] = slot.id
        wants_logits[row] = 1
        row += 1
        if sequence.draft:
            row = batch.put_draft(row, sequence.draft, next_pos + 1, slot.id)
    return row


def put_pieces(batch: Batch, pieces: Sequence[Piece], row: int) -> int:
    """Pieces of prompts, from row `row` on. Returns the number of rows."""
    for piece in pieces:
        sequence, start, end = piece.running.sequence, piece.start, piece.end
        if not sequence.started_ns:
            sequence.started_ns = time.monotonic_ns()
        tokens = np.frombuffer(sequence.prefix, dtype=np.int32)[start:end]
        slot = piece.running.slot
        if sequence.reads_prompt:
            row = batch.put_outputs(row, tokens, slot.next_pos, slot.id)
        else:
            row = batch.put_prompt(row, tokens, slot.next_pos, slot.id, wants_logits=piece.is_last)
    return row
