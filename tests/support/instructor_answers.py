"""Run with the Python of an environment that has instructor: asks at its defaults, whole and streamed, and prints what it got as JSON."""

import json
import sys

import instructor
from openai import OpenAI
from pydantic import BaseModel


class Answer(BaseModel):
    """The answer."""

    is_blue: bool


class add(BaseModel):
    """adds"""

    a: int
    b: str


client = instructor.from_openai(OpenAI(base_url=sys.argv[1], api_key="none", max_retries=0, timeout=60))
messages = [{"role": "user", "content": "cat"}]
answer = client.chat.completions.create(
    model="smollm2", messages=[{"role": "user", "content": "Is the sky blue?"}], response_model=Answer, max_retries=0
)
whole = client.chat.completions.create(model="steps", messages=messages, response_model=add, max_retries=0)
parts = list(client.chat.completions.create_partial(model="steps", messages=messages, response_model=add, max_retries=0))
print(json.dumps({"is_blue": answer.is_blue, "whole": whole.model_dump(), "last": parts[-1].model_dump(), "num_parts": len(parts)}))
