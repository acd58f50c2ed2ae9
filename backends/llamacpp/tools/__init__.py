"""Tool calling: what a request declares, how a model is told, how it writes a call, and what clients see of it.

module     what it knows
calls      the declared tools, the choice among them, a call's deltas
declared   from a request's fields to those, or to the 400 that names the field
formats    the spellings of a call, and which of them a chat template uses
hermes     `<tool_call>{"name": …, "arguments": {…}}</tool_call>`
gemma4     `<|tool_call>call:NAME{key:<|"|>text<|"|>}<tool_call|>`
splitter   generated text, in pieces of any size, to content and calls
told       messages for a template that knows no tools
"""
