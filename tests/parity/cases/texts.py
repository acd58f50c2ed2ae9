"""Text completions."""

from __future__ import annotations

from tests.parity.case import Case, Json, both, text

PROMPT = "The capital of France is"
LINES = "Người Việt ở Huế.\n你好，世界。\n"
USAGE = {"include_usage": True}
SAMPLING: Json = {"temperature": 0.7, "top_k": 5, "top_p": 0.9, "min_p": 0.1, "repetition_penalty": 1.2}
NO_PARIS = {"does not say Paris": lambda said: "Paris" not in said}

CASES: list[Case] = [
    *both(
        text("a text", PROMPT, checks={"says Paris": lambda said: "Paris" in said}),
        text("echo", PROMPT, echo=True, checks={"begins with the prompt": lambda said: said.startswith(PROMPT)}),
        text("logprobs", PROMPT, logprobs=2, max_tokens=3),
        text("echo with logprobs", PROMPT, echo=True, logprobs=1, max_tokens=2),
        text("n", PROMPT, n=2, temperature=1, ignore_eos=True),
    ),
    text("several texts", [PROMPT, "One, two, three,"]),
    text("token ids", [504, 3575, 282, 4649, 314]),
    text("several lists of token ids", [[504, 3575, 282], [4649, 314]]),
    text("Vietnamese and Chinese", LINES * 4, max_tokens=12),
    text("logprobs 0", PROMPT, logprobs=0, max_tokens=3),
    text("echo alone", PROMPT, echo=True, max_tokens=1),
    text("echo of no new token", PROMPT, echo=True, max_tokens=0),
    text("prompt_logprobs", PROMPT, prompt_logprobs=1, max_tokens=2),
    text("stream with usage", PROMPT, stream=True, stream_options=USAGE),
    text("stream of several texts", [PROMPT, "One, two, three,"], stream=True, stream_options=USAGE),
    text("stop", PROMPT, stop=[" Paris"], checks=NO_PARIS),
    text("stop_token_ids", "One, two, three,", stop_token_ids=[28], max_tokens=12),
    text("seed", PROMPT, seed=3, temperature=1, ignore_eos=True),
    text("sampling", PROMPT, **SAMPLING, seed=1, ignore_eos=True),
    text("logit_bias", PROMPT, logit_bias={"7042": -100}, checks=NO_PARIS),
    text("ignore_eos", PROMPT, ignore_eos=True, max_tokens=12),
    text("min_tokens", PROMPT, min_tokens=8, max_tokens=8),
    text("best_of", PROMPT, best_of=2),
    text("suffix", PROMPT, suffix=" and it is old."),
    text("user and unknown fields", PROMPT, user="lan", colour="blue"),
]  # fmt: skip
