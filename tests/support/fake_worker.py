"""A worker without a model: a real process on the real fork server protocol, wire and ring, that says and does what a script tells it.

Owns the script's words; must never import llama_cpp (it starts in a tenth of a second). Invariant: without a script it behaves well.

As a command: `fake_worker.py [--spare JSON] --fork-server FD`. There are three scripts, each a JSON object:

spare    `--spare`: what happens before a Load. `hello_pid` N: claim to be that process; `raw` hex: bytes instead of a Hello;
         `die`; `freeze`; `mute`: say nothing; `hangs`: close the wire, live on.
model    the content of the file at Load.path, or {"flood": true} for a file named `flood*`, {"flood": true, "lockstep": true} for
         `lockstep*`. `progress` [values], `load_s`, `fail`, `is_scarce`
         message, `die`, `freeze`, `never_ready`, `raw` hex on the wire, `ring_head` N, `first_decode` "SIGSEGV": dies so at the first token
         unless Load.safe_mode and, for more than one of `remedies`, Load.num_dropped; `meta` {}, `linger`: after `fail` it does not
         exit, `lines` to say on stderr, `shelved` N: bytes that it says are on its prompt cache, `parks` [{}]: see `park`.
request  the last message's content or the prompt. `tokens`, `text` of each, or `deltas` [{}] instead of them, or `say`: a list of
         {"text"}, {"thought"}, {"event": a Delta}, {"progress": a PromptProgress}; `finish` {}: fields of the last record;
         `delay_s` between two, `wait_s` before the first, `die` after `die_after` tokens, `hang` or `freeze` after them, `raw` hex on
         the wire, `ring_head` N, `error` message, `lines` to say on stderr before the first of them; `once` path: `die` only if there is
         no such file, which it makes. A resumed request continues after its last record; its words must be those that were sent.

`die` is a signal's name or `exit` + code. `freeze`: `stop` by a signal, `spin` in a loop, `deadlock`, or (only in a request) `turn`: the
worker's loop turns and nothing else happens. A stream that hangs counts as work. `once` PATH, in a model or a request: its fault happens
only if there is no such file, which it makes. In flood mode every request gets `tokens` (or max_tokens) tokens, all streams one token a
step, one doorbell a step, as fast as the ring takes them; in lockstep, a step begins when the router has taken the last one.
"""

import fcntl
import json
import mmap
import os
import select
import signal
import struct
import sys
import threading
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fastrouter._core import EVENT, FINISH, LAST, PROGRESS, REASONING, TEXT, TokenRing
from fastrouter.errors import InvalidRequest
from fastrouter.ipc.descriptors import Descriptors
from fastrouter.ipc.messages import (
    Abort,
    Call,
    Drop,
    Failed,
    Forget,
    Generate,
    Hello,
    Lend,
    Load,
    Message,
    Park,
    Parked,
    Progress,
    PromptCacheSize,
    Ready,
    Reply,
    Shrink,
    Submit,
)
from fastrouter.ipc.records import Finish
from fastrouter.ipc.wire import BlockingWire
from fastrouter.worker.engine.outbox import Outbox
from fastrouter.worker.process import fork

NEVER = float("inf")
SIGN_S = 1.0  # at most between two signs of life
TAIL_OFFSET = 64  # of the consumer's index in the ring's control page
HEAD_OFFSET = 128  # of the producer's index in the ring's control page
META = {
    "vocab_type": 1,
    "n_vocab": 1000,
    "n_ctx": 4096,
    "n_ctx_train": 4096,
    "n_embd": 8,
    "n_params": 1000,
    "size": 1000,
    "total_slots": 512,
}
Script = dict[str, Any]
_KINDS = {"text": TEXT, "thought": REASONING, "event": EVENT, "progress": PROGRESS}


# ---------------------------------------------------------------- fork server


def serve(fd: int, spare: Script) -> int:
    def work(wire: BlockingWire, ring: TokenRing, descriptors: Descriptors, watch_router: Callable[[], None]) -> int:
        watch_router()
        return Worker(wire, ring, descriptors, spare).run()

    def run(control: int, memory: int, doorbell: int, lifeline: int, descriptors: int) -> int:
        return fork.run_worker(control, memory, doorbell, lifeline, descriptors, work)

    return fork.serve(fd, lambda: None, run)


# ---------------------------------------------------------------- worker


def die(how: str) -> None:
    if how.startswith("exit"):
        sys.stderr.write("the script says exit\n")
        sys.stderr.flush()
        os._exit(int(how.removeprefix("exit")))
    os.kill(os.getpid(), getattr(signal, how))
    time.sleep(60)


def is_due(script: Script) -> bool:
    """Whether the fault in the script happens now."""
    if "once" in script:
        try:
            Path(script["once"]).touch(exist_ok=False)
        except FileExistsError:
            return False
    return True


def freeze(how: str) -> None:
    if how == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    while how == "spin":
        pass
    if how == "deadlock":
        lock = threading.Lock()
        lock.acquire()
        lock.acquire()


@dataclass(slots=True)
class Stream:
    """One request on its way."""

    request_id: int
    script: Script
    num_tokens: int
    num_sent: int = 0
    num_text: int = 0  # records with text
    due: float = field(default_factory=time.monotonic)

    def record(self) -> tuple[int, int, int, int, bytes, bytes]:
        """(kind, choice, flags, tokens, payload, words) of the next step."""
        records = records_of(self.script)
        record = {"text": self.script.get("text") or f"t{self.num_sent} "} if records is None else records[self.num_sent]
        [(kind, content)] = record.items()
        payload = content if isinstance(content, str) else json.dumps(content)
        if kind == "progress":
            return PROGRESS, 0, 0, 0, payload.encode(), b""
        words = array("i", [self.num_text]) if self.num_text else words_of(1)
        self.num_text += 1
        return _KINDS[kind], 0, 0, 1, payload.encode(), words.tobytes()

    def resume(self, resumed: dict[str, Any]) -> None:
        """To the place after the last record that the router has."""
        [(words, num_records, is_over)] = resumed["choices"]
        assert not is_over
        if words != words_of(num_records).tolist():
            self.script = {"error": f"wrong words: {words} for {num_records} records"}
            return
        while self.num_text < num_records:
            self.record()
            self.num_sent += 1


class Worker:
    def __init__(self, wire: BlockingWire, ring: TokenRing, descriptors: Descriptors, spare: Script) -> None:
        self.wire = wire
        self.descriptors = descriptors
        self.ring = ring
        self.outbox = Outbox(ring)
        self.spare = spare
        self.model: Script = {}
        self.num_remedies = 0
        self.num_calls = 0
        self.forgotten: list[int] = []
        self.lent: Lend | None = None
        self.dropped: list[int] = []
        self.streams: dict[int, Stream] = {}

    def run(self) -> int:
        self.greet()
        load = self.await_load()
        self.num_remedies = load.safe_mode + load.num_dropped
        if not self.load(load):
            return 1
        if self.model.get("flood"):
            self.flood()
        else:
            self.serve()
        return 0

    def say(self, script: Script) -> None:
        """The faults that a spare, a model and a request have in common."""
        if "raw" in script:
            os.write(self.wire.fileno(), bytes.fromhex(script["raw"]))
            time.sleep(60)
        if "ring_head" in script:
            memory = mmap.mmap(self.ring.memory_fd, mmap.PAGESIZE)
            memory[HEAD_OFFSET : HEAD_OFFSET + 8] = struct.pack("<Q", script["ring_head"])
            os.write(self.ring.doorbell_fd, struct.pack("<Q", 1))
            time.sleep(60)
        if "die" in script:
            die(script["die"])
        if "freeze" in script:
            freeze(script["freeze"])

    def say_lines(self, script: Script) -> None:
        sys.stderr.write("".join(f"{line}\n" for line in script.get("lines", [])))
        sys.stderr.flush()

    def greet(self) -> None:
        self.say(self.spare)
        if self.spare.get("mute"):
            time.sleep(60)
        if self.spare.get("hangs"):
            self.wire.close()
            time.sleep(60)
        self.wire.send(Hello(self.spare.get("hello_pid", os.getpid())))

    def await_load(self) -> Load:
        while True:
            messages = self.wire.poll(None)
            loads = [message for message in messages if isinstance(message, Load)]
            for message in messages[messages.index(loads[0]) + 1 :] if loads else ():
                self.handle(message)
            if loads:
                return loads[0]

    def load(self, load: Load) -> bool:
        path = Path(load.path)
        content = path.read_bytes()
        script: Script = json.loads(content) if content[:1] == b"{" else named_script(path.name)
        self.model = script
        self.say_lines(script)
        self.wire.send(Progress(0.0))
        for value in script.get("progress", []):
            self.wire.send(Progress(value))
            time.sleep(script.get("load_s", 0.0) / len(script["progress"]))
        if "progress" not in script:
            time.sleep(script.get("load_s", 0.0))
        if "fail" in script:
            self.wire.send(Failed(script["fail"], script.get("is_scarce", False)))
            time.sleep(60 if script.get("linger") else 0)
            return False
        if is_due(script):
            self.say(script)
        if script.get("never_ready"):
            time.sleep(60)
        self.wire.send(Ready({**META, **script.get("meta", {})}))
        if "shelved" in script:
            self.wire.send(PromptCacheSize(script["shelved"]))
        return True

    # ------------------------------------------------------------ requests

    def handle(self, message: Message) -> None:
        if isinstance(message, Submit):
            generate = message.generate
            script = script_of(generate)
            self.say_lines(script)
            records, usual = records_of(script), generate.max_tokens if generate.max_tokens >= 0 else 5
            num_tokens = script.get("tokens", usual if records is None else len(records))
            stream = self.streams[message.request_id] = Stream(message.request_id, script, num_tokens)
            stream.due += script.get("wait_s", 0.0)
            if message.resumed is not None:
                stream.resume(message.resumed)
        elif isinstance(message, Abort):
            self.streams.pop(message.request_id, None)
            self.outbox.drop(message.request_id)
        elif isinstance(message, Call):
            self.answer(message)
        elif isinstance(message, Forget):
            self.forgotten.append(message.request_id)
        elif isinstance(message, Shrink):
            self.wire.send(PromptCacheSize(message.num_bytes))
        elif isinstance(message, Lend):
            self.lent = message
        elif isinstance(message, Drop):
            self.dropped += message.entry_ids
        elif isinstance(message, Park):
            self.park(message)

    def park(self, park: Park) -> None:
        """As the model's `parks` says: [{"id", "bytes", "tokens", "saves_ms", "replaces", "is_open"}]; `ignores_park`: it goes on."""
        for wanted in self.model.get("parks", []):
            fd = os.memfd_create("parked", os.MFD_ALLOW_SEALING)
            os.ftruncate(fd, wanted.get("bytes", 4096))
            if not wanted.get("is_open"):
                fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE)
            self.descriptors.send(wanted["id"], fd)
            tokens, saves_ms = wanted.get("tokens", 100), wanted.get("saves_ms", 100.0)
            self.wire.send(Parked(wanted["id"], tokens, saves_ms, wanted.get("replaces", [])))
        if not self.model.get("ignores_park"):
            sys.stderr.flush()
            os._exit(0)

    def answer(self, call: Call) -> None:
        """`echo` its parameters, `fail`, `die`, `pid`, never answer to `hang`, `aborted`: how many streams are left; `slots`, `props`;
        `forgotten`: calls that nobody waits for; `lent`: parked prompts; {} to those about text; `embed` as the model's `embed` says: a
        result, or "die"."""
        self.num_calls += 1
        results = {"echo": call.params, "pid": os.getpid(), "num_streams": len(self.streams)}
        results["slots"] = [{"id": number, "is_processing": bool(self.streams)} for number in range(2)]
        results["props"] = {"pid": os.getpid(), "num_calls": self.num_calls}
        results["forgotten"] = self.forgotten
        results["lent"] = {"ids": self.lent.entry_ids if self.lent else None, "dropped": self.dropped}
        results |= {method: {} for method in ("tokenize", "detokenize", "apply_template", "count_tokens")}
        if call.method == "embed":
            if "first_decode" in self.model and self.num_remedies < self.model.get("remedies", 1):
                die(self.model["first_decode"])
            if self.model.get("embed") == "die":
                die("SIGKILL")
            results["embed"] = self.model.get("embed")
        if call.method == "die":
            die(call.params["how"])
        if call.method == "fail":
            self.wire.send(Reply(call.request_id, error=InvalidRequest("so be it").to_wire()))
        elif call.method in results:
            self.wire.send(Reply(call.request_id, result=results[call.method]))

    def finish(self, stream: Stream) -> None:
        del self.streams[stream.request_id]
        self.outbox.finish(stream.request_id, 0, True, finish_of(stream))

    def serve(self) -> None:
        """Each stream at its own pace."""
        while True:
            due = min((stream.due for stream in self.streams.values()), default=NEVER)
            wait = min(SIGN_S, max(0.0, due - time.monotonic())) if self.streams else None
            if self.outbox.is_blocked:
                wait = 0.0002
            self.note_life()
            for message in self.wire.poll(wait):
                self.handle(message)
            if self.outbox.flush():
                now = time.monotonic()
                for stream in [stream for stream in self.streams.values() if stream.due <= now]:
                    self.step(stream, now)
            self.outbox.ring_doorbell()

    def note_life(self) -> None:
        self.ring.note_alive()
        if not any(stream.due == NEVER and stream.script.get("freeze") == "turn" for stream in self.streams.values()):
            self.ring.note_progress()

    def step(self, stream: Stream, now: float) -> None:
        script = stream.script
        if "first_decode" in self.model and self.num_remedies < self.model.get("remedies", 1):
            die(self.model["first_decode"])
        if stream.num_sent >= script.get("die_after", 0) and is_due(script):
            if script.keys() & {"die", "freeze", "raw", "ring_head"}:
                self.outbox.ring_doorbell()
                self.say(script)
            if script.get("hang") or "freeze" in script:
                stream.due = NEVER
                self.outbox.ring_doorbell()
                return
            if "error" in script:
                del self.streams[stream.request_id]
                self.outbox.error(stream.request_id, InvalidRequest(script["error"]))
                return
        if stream.num_sent >= stream.num_tokens:
            self.finish(stream)
            return
        self.outbox.push(stream.request_id, *stream.record())
        stream.num_sent += 1
        stream.due = now + script.get("delay_s", 0.0)

    def flood(self) -> None:
        """All streams one token a step."""
        push, poll = self.ring.try_push, select.poll()
        poll.register(self.wire.fileno(), select.POLLIN)
        text = b" token"
        indices = struct.Struct("<Q56xQ")
        memory = mmap.mmap(self.ring.memory_fd, mmap.PAGESIZE)
        is_lockstep = self.model.get("lockstep")
        while True:
            if not self.streams or poll.poll(0):
                for message in self.wire.poll(None):
                    self.handle(message)
            ended = []
            self.ring.note_progress()
            for stream in self.streams.values():
                if stream.num_sent < stream.num_tokens:
                    words = stream.num_sent.to_bytes(4, "little") if stream.num_sent else words_of(1).tobytes()
                    while not push(stream.request_id, TEXT, 0, 0, 1, text, words):
                        self.ring.ring_doorbell()
                        time.sleep(0.0002)
                    stream.num_sent += 1
                else:
                    ended.append(stream)
            for stream in ended:
                del self.streams[stream.request_id]
                while not push(stream.request_id, FINISH, 0, LAST, 0, finish_of(stream).to_payload(self.ring.capacity)):
                    self.ring.ring_doorbell()
                    time.sleep(0.0002)
            self.ring.ring_doorbell()
            while is_lockstep and len(set(indices.unpack_from(memory, TAIL_OFFSET))) > 1:
                time.sleep(0.0001)


def words_of(num_records: int) -> "array[int]":
    """Of the first records: two for the prompt, then a token for each."""
    return array("i", [3, 7, *range(num_records)] if num_records else [])


def finish_of(stream: Stream) -> Finish:
    deltas = [record["event"] for record in records_of(stream.script) or [] if "event" in record]
    finish = Finish(
        stop_type="limit" if stream.num_sent >= stream.num_tokens and "deltas" not in stream.script else "eos",
        num_calls=len({call["index"] for delta in deltas for call in delta.get("calls", [])}),
        prompt_tokens=1,
        completion_tokens=stream.num_sent,
        num_decodes=stream.num_sent,
        num_busy_decodes=2 * stream.num_sent,
        id_slot=0,
        timings={"prompt_n": 1, "predicted_n": stream.num_sent},
    )
    return replace(finish, **stream.script.get("finish", {}))


def named_script(name: str) -> Script:
    return {"flood": name.startswith(("flood", "lockstep")), "lockstep": name.startswith("lockstep")}


def records_of(script: Script) -> list[dict[str, Any]] | None:
    """None: plain tokens."""
    if "deltas" in script:
        return [{"event": delta} for delta in script["deltas"]]
    records: list[dict[str, Any]] | None = script.get("say")
    return records


def script_of(generate: Generate) -> Script:
    text = generate.messages[-1]["content"] if generate.messages else generate.prompt
    if isinstance(text, str) and text.startswith("{"):
        script: Script = json.loads(text)
        return script
    return {}


def main(argv: list[str]) -> int:
    spare: Script = {}
    if argv[0] == "--spare":
        spare = json.loads(argv[1])
        argv = argv[2:]
    assert argv[0] == "--fork-server"
    return serve(int(argv[1]), spare)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
