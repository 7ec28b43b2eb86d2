"""What a model can do, told from its file alone."""

from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastrouter.catalog.capabilities import (
    TemplateFeatures,
    capabilities,
    embedding_options,
    facts,
    file_type_name,
    input_modalities,
)
from fastrouter.catalog.gguf import Header
from fastrouter.catalog.template_features import problem_of, template_features
from fastrouter.options.load import LoadOptions

CHATML = "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>{% endfor %}"


def header(architecture: str = "llama", **known: Any) -> Header:
    plain: dict[str, Any] = {field.name: None for field in fields(Header)}
    plain |= {field.name: False for field in fields(Header) if field.name.startswith("has_")}
    return Header(**(plain | {"architecture": architecture, "num_params": 1, "size_bytes": 2} | known))


# ---------------------------------------------------------------- templates


@pytest.mark.parametrize(
    ("text", "kwargs"),
    [
        (CHATML, ()),
        ("{{ bos_token }}{{ eos_token }}{{ strftime_now('%d') }}{{ range(3) }}{% set ns = namespace(a=1) %}{{ ns.a }}", ()),
        ("{{ documents }}{{ city }}", ("city",)),
        ("{% set x = 1 %}{{ x }}", ()),
        ("{{ x }}{% set x = 1 %}", ("x",)),
        ("{% if x is not defined %}{% set x = 1 %}{% endif %}{{ x }}", ("x",)),
        ("{% if not x is defined %}{% set x = 1 %}{% endif %}{{ x }}", ("x",)),
        ("{% set x = x | default(3) %}{{ x }}", ("x",)),
        ("{% for x in messages %}{{ x }}{{ loop.index }}{% endfor %}{{ y }}", ("y",)),
        ("{% for a, b in messages %}{{ a ~ b }}{% endfor %}{{ a }}", ("a",)),
        ("{% for x in x %}{% endfor %}", ("x",)),
        ("{% for m in messages if m.role == wanted %}{% endfor %}", ("wanted",)),
        ("{% for m in messages %}{% set inner = 1 %}{% endfor %}{{ inner }}", ("inner",)),
        ("{% macro f(x, y=z) %}{{ x }}{{ y }}{{ w }}{% endmacro %}{{ f(1) }}", ("w", "z")),
        ("{% macro f(x) %}{{ g(x) }}{% endmacro %}{% macro g(x) %}{{ f(x) }}{% endmacro %}", ()),
        ("{% macro f(tools) %}{{ tools }}{% endmacro %}", ()),
        ("{% set x %}text{% endset %}{{ x }}", ()),
        ("{% with x = y %}{{ x }}{% endwith %}", ("y",)),
        ("{% macro f() %}{{ caller(1) }}{% endmacro %}{% call(v) f() %}{{ v }}{{ w }}{% endcall %}", ("w",)),
        ("{% for x in messages %}{% if loop.last %}{% break %}{% endif %}{% continue %}{% endfor %}", ()),
        ("{% generation %}{{ x }}{% endgeneration %}", ("x",)),
        ("{{ messages[0].content.x }}{{ messages | map(attribute='y') | list }}", ()),
    ],
)
def test_which_variables_a_template_reads(text: str, kwargs: tuple[str, ...]) -> None:
    assert template_features(text) == TemplateFeatures(kwargs=kwargs)


@pytest.mark.parametrize(
    ("text", "tools", "thinking", "system"),
    [
        (CHATML, False, False, True),
        ("{% if tools %}{{ tools | tojson }}{% endif %}", True, False, True),
        ("{% macro f(tools) %}{{ tools }}{% endmacro %}{{ f(tools) }}", True, False, True),
        ("{% macro f(tools) %}{{ tools }}{% endmacro %}{{ f([]) }}", False, False, True),
        ("the tools: none", False, False, True),
        ("{% if enable_thinking is defined and not enable_thinking %}x{% endif %}", False, True, True),
        ("{{ messages[0].reasoning_content }}", False, True, True),
        ("{{ messages[0]['reasoning_content'] }}", False, True, True),
        ("{% if add_generation_prompt %}<think>\n{% endif %}", False, True, True),
        ("{{ '<think>' }}", False, True, True),
        ("{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}", False, False, False),
        ("{{ raise_exception('Only user and assistant roles are supported!') }}", False, False, True),
    ],
)
def test_what_a_template_has_a_place_for(text: str, tools: bool, thinking: bool, system: bool) -> None:
    found = template_features(text)
    assert (found.tools, found.thinking, found.system, found.is_understood) == (tools, thinking, system, True)


@pytest.mark.parametrize(
    "text",
    ["{% if %}", "{{ a", "{% unknown %}", "x" * (1 << 18), "{{ " + "(" * 30_000 + ")" * 30_000 + " }}", "{% if a %}" * 5_000, "{{ a }" * 9],
)
def test_what_is_no_template_is_not_understood(text: str) -> None:
    found = template_features(text)
    assert found == TemplateFeatures(is_understood=False, problem=problem_of(text))
    assert found.problem is None if text.startswith("x") else str(found.problem).startswith("chat template: ")


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "text",
    ["{{ 9**9**9**9 }}", "{{ 'x' * 10**12 }}", "{{ range(10**12) | list }}", "{{ 'x' | center(10**12) }}", "{{ ''.__class__.__mro__ }}"],
)
def test_a_hostile_template_is_not_run(text: str) -> None:
    assert template_features(text).is_understood


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.sampled_from(["{{", "}}", "{%", "%}", "if ", "for ", "x", " in ", "endif", "endfor", "set ", "=", "(", ")", "'", "macro "]))
)
def test_any_text_ends_in_features(pieces: list[str]) -> None:
    assert isinstance(template_features(" ".join(pieces)), TemplateFeatures)


# ---------------------------------------------------------------- models

ALL = TemplateFeatures(tools=True, thinking=True)
IMAGE, AUDIO = header("clip", has_vision_encoder=True), header("clip", has_audio_encoder=True)
BOTH, OLD = header("clip", has_vision_encoder=True, has_audio_encoder=True), header("clip")


@pytest.mark.parametrize(
    ("model", "template", "projector", "options", "found"),
    [
        (header(), None, None, {}, "completion"),
        (header(), None, None, {"chat_template": "chatml"}, "completion chat"),
        (header(), TemplateFeatures(), None, {}, "completion chat"),
        (header(), ALL, None, {}, "completion chat tools thinking"),
        (header(), TemplateFeatures(is_understood=False), None, {}, "completion chat"),
        (header(), TemplateFeatures(is_understood=False, problem="line 1: no"), None, {}, "completion"),
        (header(), ALL, IMAGE, {}, "completion chat tools thinking vision"),
        (header(), TemplateFeatures(), BOTH, {}, "completion chat vision audio"),
        (header(has_infill_tokens=True), None, None, {}, "completion infill"),
        (header("bert"), None, None, {}, "embedding"),
        (header("nomic-bert-moe"), None, None, {}, "embedding"),
        (header("gemma-embedding"), None, None, {}, "embedding"),
        (header("qwen3", pooling_type=3), ALL, None, {}, "embedding"),
        (header("qwen3", pooling_type=0), ALL, None, {}, "completion chat tools thinking"),
        (header("qwen3", pooling_type=4), ALL, None, {}, "rerank"),
        (header("bert", pooling_type=4), None, None, {}, "rerank"),
        (header("bert", pooling_type=4), None, None, {"pooling": "cls"}, "embedding"),
        (header(), ALL, None, {"embedding": True}, "embedding"),
        (header(), ALL, None, {"pooling": "mean"}, "embedding"),
        (header("bert"), None, None, {"reranking": True}, "rerank"),
        (header("bert"), None, None, {"embedding": True, "pooling": "rank"}, "rerank"),
    ],
)
def test_capabilities(
    model: Header, template: TemplateFeatures | None, projector: Header | None, options: dict[str, Any], found: str
) -> None:
    assert capabilities(model, template, projector, LoadOptions(**options)) == found.split()


@pytest.mark.parametrize(
    ("model", "options", "num_tokens"),
    [
        (header("bert", context_length=512), {}, 512),
        (header("bert", context_length=8192), {}, 2048),
        (header("bert", context_length=8192), {"ubatch_size": 4096}, 4096),
        (header("bert", context_length=8192), {"batch_size": 64, "ubatch_size": 32}, 64),
        (header("bert", context_length=512), {"ctx_size": 100_000, "ubatch_size": 4096}, 512),
        (header("bert"), {}, 2048),
    ],
)
def test_a_model_of_vectors_has_a_context_of_one_batch(model: Header, options: dict[str, Any], num_tokens: int) -> None:
    found = embedding_options(model, LoadOptions(**options))
    assert (found.ctx_size, found.batch_size, found.ubatch_size) == (num_tokens,) * 3
    assert (found.embedding, found.reranking, found.pooling, found.is_unified) == (True, False, None, True)
    assert capabilities(model, None, None, found) == ["embedding"]
    assert embedding_options(model, found) == found


def test_a_decoder_keeps_its_micro_batch() -> None:
    decoder = header("qwen3", context_length=32768, pooling_type=3)

    def sizes(**options: Any) -> tuple[int, int, int]:
        found = embedding_options(decoder, LoadOptions(**options))
        assert embedding_options(decoder, found) == found
        return found.ctx_size, found.batch_size, found.ubatch_size

    assert sizes() == (8192, 512, 512)
    assert sizes(ctx_size=16384, ubatch_size=1024) == (16384, 1024, 1024)
    assert sizes(ctx_size=100_000) == (32768, 512, 512)
    assert sizes(ctx_size=256) == (256, 256, 256)


def test_options_of_rankers_and_of_others() -> None:
    ranker = embedding_options(header("bert", pooling_type=4), LoadOptions())
    assert (ranker.embedding, ranker.reranking, ranker.pooling) == (True, True, "rank")
    assert embedding_options(header("llama"), LoadOptions(reranking=True)).pooling == "rank"
    chat = LoadOptions(ctx_size=9, pooling="none")
    assert embedding_options(header("qwen3", pooling_type=0), chat) is chat


PROJECTORS = (None, IMAGE, AUDIO, BOTH, OLD)


def test_modalities_that_a_projector_is_for() -> None:
    assert [input_modalities(projector) for projector in PROJECTORS] == [
        ["text"],
        ["text", "image"],
        ["text", "audio"],
        ["text", "image", "audio"],
        ["text", "image"],
    ]
    assert input_modalities(None, has_projector=True) == ["text", "image"]
    assert capabilities(header(), TemplateFeatures(), BOTH, LoadOptions()) == ["completion", "chat", "vision", "audio"]


def test_facts_leave_out_what_is_not_known() -> None:
    assert facts(header(), LoadOptions()) == {"n_params": 1, "size": 2}
    known = facts(header(context_length=3, embedding_length=4, vocab_size=5, file_type=15), LoadOptions())
    assert known == {
        "n_vocab": 5, "n_ctx": 3, "n_ctx_train": 3, "n_embd": 4, "n_params": 1, "size": 2, "ftype": "Q4_K - Medium",
    }  # fmt: skip


def test_file_types_have_the_names_that_llama_cpp_gives_them() -> None:
    import llama_cpp

    for number in range(64):
        assert file_type_name(number) == llama_cpp.llama_ftype_name(number).decode(), number
