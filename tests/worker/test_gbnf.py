"""GBNF grammars, exact even with recursion: at every token what llama.cpp's own grammar allows, and texts that a lexer would refuse."""

import ctypes
from collections.abc import Iterator
from concurrent.futures import Future

import numpy as np
import pytest
from tiny_models import make_llama

from fastrouter.options.load import LoadOptions
from fastrouter.worker.llama.binding import api, start_backends
from fastrouter.worker.llama.model import Model
from fastrouter.worker.llama.vocab import Vocab
from fastrouter.worker.sampling.gbnf_to_lark import to_lark
from fastrouter.worker.sampling.grammar import ConstrainedSampler, Grammars, Matcher

api = api
TOKEN_DATA = np.dtype([("id", "i4"), ("logit", "f4"), ("p", "f4")])

# None of them can refer to itself before it has read a character: with such a grammar llama.cpp uses all memory.
GRAMMARS = {
    "lexeme": 'root ::= "(" root ")" | word [a-z] "!"\nword ::= [a-z]+',
    "palindrome": 'root ::= "a" root "ab" | "ab" | "b"',
    "keyword": 'root ::= "(" root ")" | (keyword | name) ";"\nkeyword ::= "cat"\nname ::= [a-d] [a-z]*',
    "literals": 'root ::= "[" root "]" | ("a" | "ab") ("b" | "c") | "the" "re"?',
    "counts": 'root ::= "<" root{1,2} ">" | [ab]{2,3} "b"',
    "escapes": 'root ::= "{" root "}" | "\\"\\\\\\n" [^"\\\\\\x7F\\x00-\\x1F] "\\"" | [\\]\\-] .',
    "json": (
        'root ::= value\nobject ::= "{" ws ( string ":" ws value ("," ws string ":" ws value)* )? "}" ws\n'
        'value ::= object | array | string | number | ("true" | "false" | "null") ws\n'
        'array ::= "[" ws ( value ("," ws value)* )? "]" ws\n'
        'string ::= "\\"" ( [^"\\\\\\x7F\\x00-\\x1F] | "\\\\" (["\\\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\\"" ws\n'
        'number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ws\nws ::= | " " | "\\n" [ \\t]{0,20}'
    ),
    "plain": 'root ::= word "b"\nword ::= ([a-z]+)?',
}


@pytest.fixture(scope="module")
def vocab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vocab]:
    start_backends()
    model = Model(str(make_llama(tmp_path_factory.mktemp("gbnf") / "tiny.gguf")), LoadOptions())
    yield model.vocab
    model.close()


class Oracle:
    """llama.cpp's own grammar."""

    def __init__(self, vocab: Vocab, text: str) -> None:
        self._sampler = api.llama_sampler_init_grammar(vocab.pointer, text.encode(), b"root")
        assert self._sampler
        self._candidates = (api.llama_token_data * vocab.n_tokens)()

    def allowed(self) -> set[int]:
        view = np.frombuffer(self._candidates, dtype=TOKEN_DATA)
        view["id"], view["logit"] = np.arange(len(view)), 0.0
        array = api.llama_token_data_array(data=self._candidates, size=len(view), selected=-1, sorted=False)
        api.llama_sampler_apply(self._sampler, ctypes.byref(array))
        return set(view["id"][view["logit"] > -1.0].tolist())

    def accept(self, token: int) -> None:
        api.llama_sampler_accept(self._sampler, token)

    def close(self) -> None:
        api.llama_sampler_free(self._sampler)


def compiled(vocab: Vocab, text: str) -> Matcher:
    found: Future[Matcher] = Grammars(vocab).compile({"kind": "gbnf", "field": "grammar", "text": text})
    return found.result().copy()


def allowed(matcher: Matcher, vocab: Vocab) -> set[int]:
    matcher.find_allowed()
    words = np.frombuffer(ctypes.string_at(matcher.address, 4 * ((vocab.n_tokens + 31) // 32)), np.uint8)
    return set(np.flatnonzero(np.unpackbits(words, bitorder="little")[: vocab.n_tokens]).tolist())


def texts_of(tokens: set[int], vocab: Vocab) -> set[bytes]:
    """Without tokens that have no text of their own: several may have the same text, and a byte may be a part of a character."""
    pieces = {b"END" if vocab.is_eog(token) else vocab.token_to_piece(token, special=False) for token in tokens}
    return {piece for piece in pieces if piece and piece != b"\0" and not (len(piece) == 1 and piece[0] >= 0x80)}


@pytest.mark.parametrize("name", GRAMMARS)
def test_the_same_tokens_as_llama_cpp(vocab: Vocab, name: str) -> None:
    random = np.random.default_rng(7)
    start = compiled(vocab, GRAMMARS[name])
    assert start.is_lazy == (name != "plain")
    num_ended = 0
    for _ in range(12):
        matcher, oracle = start.copy(), Oracle(vocab, GRAMMARS[name])
        for _ in range(16):
            tokens = allowed(matcher, vocab)
            assert texts_of(tokens, vocab) == texts_of(oracle.allowed(), vocab)
            going_on = sorted(token for token in tokens if not vocab.is_eog(token))
            assert all(matcher.allows(token) for token in going_on[:3])
            if not going_on:
                num_ended += 1
                break
            token = int(random.choice(going_on))
            assert matcher.accept(token)
            oracle.accept(token)
        oracle.close()
    assert num_ended or name in ("json", "plain", "escapes")


def follows(vocab: Vocab, grammar: str, text: str) -> bool:
    """Byte by byte, to the end."""
    matcher = compiled(vocab, grammar)
    for byte in text.encode():
        if not matcher.allows(3 + byte) or not matcher.accept(3 + byte):
            return False
    return matcher.is_complete or matcher.allows(vocab.eos)


@pytest.mark.parametrize(
    ("grammar", "right", "wrong"),
    [
        ("lexeme", ["ab!", "((xyz!))"], ["a!", "(ab!"]),
        ("literals", ["ab", "abb", "abc", "ac", "[[there]]", "the"], ["aab", "ther"]),
        ("counts", ["aab", "<abb>", "<<aab>bbb>"], ["ab", "<>", "<aabbabb"]),
        ("json", ['{"a":[1,{"b":null }],"c":"\\u00e4" }'], ['{"a":}', '{"a":1']),
    ],
)
def test_texts(vocab: Vocab, grammar: str, right: list[str], wrong: list[str]) -> None:
    assert all(follows(vocab, GRAMMARS[grammar], text) for text in right)
    assert not any(follows(vocab, GRAMMARS[grammar], text) for text in wrong)


@pytest.mark.parametrize("grammar", ['root ::= . "b"', 'root ::= "(" root ")" | . "b"'])
def test_a_dot_is_any_character(vocab: Vocab, grammar: str) -> None:
    assert follows(vocab, grammar, "\nb")
    assert follows(vocab, grammar, "\u3042b")


@pytest.mark.parametrize("grammar", ['root ::= root "a" | ""', 'root ::= a root b | ""\na ::= [a-z]*\nb ::= [a-z] "!"'])
def test_rules_that_begin_with_themselves_do_no_harm(vocab: Vocab, grammar: str) -> None:
    """llama.cpp refuses the first, and the second never ends there."""
    text = "aaa" if "!" not in grammar else "xy!z!"
    assert follows(vocab, grammar, text)
    assert not follows(vocab, grammar, text + "1")


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_one_token_first_then_the_others(vocab: Vocab, temperature: float) -> None:
    """The best token is taken when it is allowed, whatever the mask says; otherwise the best allowed one."""
    matcher = compiled(vocab, GRAMMARS["literals"])
    sampler = ConstrainedSampler(vocab, {"temperature": temperature, "seed": 1}, {}, matcher)
    logits = np.zeros(vocab.n_tokens, np.float32)
    best = 3 + ord("[")
    logits[best] = 100.0
    logits[3 + ord("a")] = 50.0
    for _ in range(5):
        assert sampler.sample(logits.ctypes.data, vocab.n_tokens) == best
        sampler.accept(best)
    logits[best], logits[3 + ord("9")] = 0.0, 100.0  # no grammar has a 9
    assert sampler.sample(logits.ctypes.data, vocab.n_tokens) == 3 + ord("a")
    assert sampler.error is None


def test_names_do_not_meet() -> None:
    lark, is_recursive = to_lark('root ::= "(" fooBar ")"\nfooBar ::= root | WORD-x\nWORD-x ::= "r"')
    assert is_recursive
    assert "WORD" not in lark
