"""Bad files, by what they pretend to be; each is read in every run of the tests.

Those that a person would write by hand stand here as they are, the large ones are made. A file that
once made something crash stays, with what it was.
"""

from __future__ import annotations

import json
import struct
from typing import Any

DEEP = 3_000
_DIGITS = "9" * 5_000
_NESTED = "[" * DEEP + "]" * DEEP
_OBJECTS = '{"a":' * DEEP + "1" + "}" * DEEP
_PAIR = {"clean": "the dog near the cats", "corrupted": "the dogs near the cats", "answer": " is"}
_TEXTS = b"the cat sees the dog\n\nthe dogs see the cat\n"

# Whatever reads text has these to refuse.
ANY_TEXT: dict[str, bytes] = {
    "empty": b"",
    "blank": b" \n\r\n\t",
    "zeros": b"\x00" * 200,
    "byte order mark alone": b"\xef\xbb\xbf",
    "UTF-16": "model: grammar-4l\n".encode("utf-16"),
    "Latin-1": "text,label\ncaf\xe9,1\n".encode("latin-1"),
    "two encodings": "é\n".encode() + "é\n".encode("latin-1"),
    "half a character": b"\xed\xa0\x80",
    "controls": b"\x1b[2J\x1b]0;owned\x07\x08\x7f\n",
    "a page": b"<!doctype html><script>alert(1)</script>",
    "a pickle": b"cos\nsystem\n(S'touch CANARY'\ntR.",
    "a ZIP archive": b"PK\x03\x04" + b"\x00" * 40,
    "one long line": b"a" * 300_000,
    "many lines": b"a\n" * 20_000,
}
ANY_JSON: dict[str, bytes] = {
    "deep list": _NESTED.encode(),
    "deep object": _OBJECTS.encode(),
    "cut off": b'{"a": [1, 2',
    "a number alone": b"1",
    "a text alone": b'"text"',
    "null": b"null",
    "not a number": b"NaN",
    "infinity": b"[Infinity, -Infinity]",
    "too many digits": _DIGITS.encode(),
    "more than any float": f'{{"value": {_DIGITS[:400]}}}'.encode(),
    "too many digits within": b'{"prompts": [' + _DIGITS.encode() + b"]}",
    "keys twice": b'{"format": 1, "format": 2}',
    "list of lists": b"[[[]]]",
    "half a character": b'{"text": "\\ud800", "label": 1}',
}

SPECS: dict[str, bytes] = {
    "an object of Python": b"model: !!python/object/apply:os.system ['touch CANARY']\n",
    "a module of Python": b"model: !!python/module:canary\n",
    "a name of Python": b"!!python/name:os.system\n",
    "a tag": b"model: !secret grammar-4l\n",
    "ten laughs": b"a: &a [x]\n"
    + b"".join(
        b"%c: &%c [%s]\n" % (98 + i, 98 + i, b",".join([b"*%c" % (97 + i)] * 9)) for i in range(9)
    ),
    "an alias of itself": b"model: &m\n  name: *m\n",
    "merged": b"model:\n  <<: {name: grammar-4l}\n",
    "two documents": b"model: {name: grammar-4l}\n---\nmodel: {name: modadd-113}\n",
    "a directive": b"%YAML 9.9\n---\nmodel: {}\n",
    "an unknown directive": b"%TAG ! tag:evil,2000:\n---\nmodel: !x {}\n",
    "deep flow": b"model: " + _NESTED.encode(),
    "deep block": b"\n".join(b" " * i + b"a:" for i in range(600)),
    "complex key": b"? [a, b]\n: 1\n",
    "key twice": b"seed: 1\nseed: 2\n",
    "large seed": b"seed: " + _DIGITS.encode() + b"\n",
    "large float": b"limits: {minutes: 1e999}\n",
    "infinite": b"limits: {minutes: .inf}\n",
    "sexagesimal": b"seed: 1:30:00\n",
    "half a character": b'title: "\\ud800"\n',
    "controls in quotes": b'title: "\\0\\e[2J\\u202e"\n',
    "a tab": b"model:\n\tname: grammar-4l\n",
    "outside": b"behaviours: [{pairs: ../../../../etc/passwd, n: 2}]\n",
    "absolute": b"questions: {units: {corpus: /etc/passwd}}\n",
    "long path": b"behaviours: [{pairs: " + b"a" * 5_000 + b".csv}]\n",
    "long part of a path": b"behaviours: [{pairs: " + b"a" * 150 + b"/" + b"b" * 300 + b".csv}]\n",
    "zero in a path": b'behaviours: [{pairs: "a\\0b.csv"}]\n',
    "home": b"behaviours: [{pairs: ~root/x.csv}]\n",
    "many behaviours": b"behaviours: [" + b"{task: agreement}," * 2_000 + b"]\n",
    "unclosed": b'title: "abc\n',
    "a reserved character": b"title: @x\nseed: `1`\n",
    "block without end": b"title: |9\n  a\n",
    "a question mark": b"?",
    "a percent sign": b"%",
    "an ampersand": b"&",
    "colons": b":::::\n",
    "dashes": b"- - - - - 1\n",
}

PAIRS_JSON: dict[str, bytes] = {
    "no list": b'{"prompts": 1}',
    "no prompts": b"{}",
    "answers that are objects": json.dumps([{**_PAIR, "answer": {}}]).encode(),
    "infinite ids": b'[{"clean": "a", "corrupted": "b", "correct_idx": Infinity, '
    b'"incorrect_idx": [NaN]}]',
    "large ids": json.dumps(
        [{"clean": "a", "corrupted": "b", "correct_idx": 10**30, "incorrect_idx": -1}]
    ).encode(),
    "half a character": b'[{"clean": "\\ud800", "corrupted": "\\udc00", "answer": "\\ud800"}]',
    "spans far out": json.dumps([{**_PAIR, "spans": {"x": [10**30, -(10**30)]}}]).encode(),
    "spans of a truth": json.dumps([{**_PAIR, "spans": {"x": [True, False]}}]).encode(),
    "hostile names of spans": json.dumps([{**_PAIR, "spans": {"\x1b[2J": "dog"}}]).encode(),
    "controls": json.dumps([{**_PAIR, "clean": "\x1b[2J", "answer": "\x00"}]).encode(),
    "an endless word": json.dumps([{**_PAIR, "answer": "a" * 100_000}]).encode(),
    "many columns": json.dumps([{f"column {i}": i for i in range(3_000)}]).encode(),
}
PAIRS_CSV: dict[str, bytes] = {
    "a quote that is never closed": b'clean,corrupted,answer,wrong_answer\n"a,b,c,d\n',
    "more cells than columns": b"clean,corrupted,answer,wrong_answer\na,b,c,d,e,f\n",
    "fewer cells than columns": b"clean,corrupted,answer,wrong_answer\na\n",
    "columns twice": b"clean,clean,corrupted,answer\na,b,c,d\n",
    "infinite ids": b"clean,corrupted,correct_idx,incorrect_idx\na,b,Infinity,NaN\n",
    "ids with many digits": b"clean,corrupted,correct_idx,incorrect_idx\na,b,"
    + _DIGITS.encode()
    + b",1\n",
    "ids that are nested": b"clean,corrupted,correct_idx,incorrect_idx\na,b,"
    + _NESTED.encode()
    + b",1\n",
    "a long cell": b"clean,corrupted,answer,wrong_answer\n" + b"a" * 200_000 + b",b,c,d\n",
    "zeros": b"clean,corrupted,answer,wrong_answer\n\x00,\x00,\x00,\x00\n",
    "a formula": b"clean,corrupted,answer,wrong_answer\n=cmd|'/C calc'!A0,b,c,d\n",
}
CONCEPTS_JSONL: dict[str, bytes] = {
    "tokens that are large": b'{"tokens": [%s], "label": 1}' % (b"9" * 30),
    "labels that are large": b'{"tokens": [1], "labels": [%s]}' % (b"9" * 30),
    "labels that are no numbers": b'{"tokens": [1], "labels": [NaN]}',
    "labels that are infinite": b'{"text": "the cat", "label": Infinity}',
    "spans that are large": b'{"text": "the cat", "spans": [[0, %s]]}' % (b"9" * 30),
    "half a character": b'{"text": "\\ud800", "label": 1}\n{"text": "\\udc00", "label": 0}',
    "no labels": b'{"text": "the cat", "labels": []}',
    "empty spans": b'{"text": "the cat", "spans": []}',
    "one label alone": b'{"text": "the cat", "label": 1}',
    "a list": b"[1]",
    "controls": b'{"text": "\\u001b[2J", "label": "\\u001b[2J"}',
}
CORPORA_JSONL: dict[str, bytes] = {
    "other column": b'{"words": "the cat"}',
    "no text": b'{"text": 1}',
    "empty texts": b'{"text": ""}\n{"text": " "}',
    "half a character": b'{"text": "\\ud800 cat"}',
    "unknown words": b'{"text": "xyzzy \\u0000 \\u001b[2J"}',
}
CURVES: dict[str, bytes] = {
    "a header alone": b"step,loss\n",
    "no numbers": b"step,loss\na,b\n",
    "infinite": b"step,loss\n" + b"".join(b"%d,inf\n" % i for i in range(40)),
    "huge steps": b"step,loss\n" + b"".join(b"1e%d,1\n" % (300 + i % 9) for i in range(40)),
    "huge losses": b"step,loss\n" + b"".join(b"%d,1e308\n" % i for i in range(60)),
    "negative": b"step,loss\n" + b"".join(b"%d,-1\n" % i for i in range(40)),
    "tiny": b"step,loss\n" + b"".join(b"%d,1e-320\n" % i for i in range(40)),
    "steps that go back": b"step,loss\n" + b"".join(b"%d,1\n" % -i for i in range(40)),
    "one step again and again": b"step,loss\n" + b"7,1\n" * 40,
    "more cells than columns": b"step,loss\n1,2,3,4\n2,2,3,4\n",
    "hostile column": b"step,\x1b[2J<b>loss\n" + b"".join(b"%d,1\n" % i for i in range(40)),
    "a history that is none": b'{"log_history": {"loss": 1}}',
    "a history of nothing": b'{"log_history": []}',
    "objects of nothing": b"{}\n{}",
    "a series": b"step,metric,value\n" + b"".join(b"%d,\x1b[2J,1\n" % i for i in range(40)),
    "names that are lists": b'[{"tag": [1], "value": 1, "step": 1}]',
    "a quote that is never closed": b'step,"loss\n1,2\n',
    "many digits": b'[{"step": 1, "loss": ' + _DIGITS.encode() + b"}]",
}


def safetensors_file(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file with any header.

    Args:
        header: JSON types, or bytes that stand in place of JSON.
        data: What follows.
        length: What it says is the header's length; its own if not given.
    """
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    said = len(raw) if length is None else length
    return struct.pack("<Q", said) + raw + data


def _tensor(shape: list[int], first: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [first, end]}


ARRAYS: dict[str, bytes] = {
    "nothing": b"",
    "seven bytes": b"\x00" * 7,
    "no header": struct.pack("<Q", 0),
    "a header without end": safetensors_file({}, length=2**63),
    "a header of all memory": safetensors_file({}, length=2**40),
    "a negative length": struct.pack("<q", -1) + b"{}",
    "a header that is cut off": safetensors_file(b'{"a": ', length=100),
    "a header that is a list": safetensors_file([]),
    "a header that is no text": safetensors_file(b"\xff\xfe\x00"),
    "a deep header": safetensors_file(_OBJECTS.encode()),
    "no tensor": safetensors_file({}),
    "metadata that is no text": safetensors_file({"__metadata__": {"a": 1}}),
    "offsets that overlap": safetensors_file(
        {"a": _tensor([2], 0, 8), "b": _tensor([2], 4, 12)}, b"\x00" * 12
    ),
    "offsets beyond the end": safetensors_file({"a": _tensor([2], 0, 8)}, b"\x00" * 4),
    "offsets that go back": safetensors_file({"a": _tensor([2], 8, 0)}, b"\x00" * 8),
    "a hole": safetensors_file({"a": _tensor([1], 4, 8)}, b"\x00" * 8),
    "a huge shape": safetensors_file({"a": _tensor([2**40, 2**40], 0, 8)}, b"\x00" * 8),
    "a shape of nothing": safetensors_file({"a": _tensor([0, 2**62], 0, 0)}),
    "a negative shape": safetensors_file({"a": _tensor([-1], 0, 4)}, b"\x00" * 4),
    "a shape of another size": safetensors_file({"a": _tensor([3], 0, 8)}, b"\x00" * 8),
    "an unknown number format": safetensors_file({"a": _tensor([1], 0, 4, "F99")}, b"\x00" * 4),
    "another number format": safetensors_file({"a": _tensor([2], 0, 8, "I32")}, b"\x00" * 8),
    "a name twice": safetensors_file(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
        b'"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
        b"\x00" * 8,
    ),
    "hostile names": safetensors_file(
        {"../../CANARY": _tensor([1], 0, 4), "\x1b[2J<b>": _tensor([1], 4, 8)}, b"\x00" * 8
    ),
    "something after the end": safetensors_file({"a": _tensor([1], 0, 4)}, b"\x00" * 9),
}

# In place of a model's config.json; {} stands for what it had.
CONFIGS: dict[str, dict[str, Any]] = {
    "code of its own": {"auto_map": {"AutoModelForCausalLM": "canary.Model"}},
    "code of another": {"auto_map": {"AutoModelForCausalLM": "evil/repository--canary.Model"}},
    "an unknown kind": {"model_type": "canary", "architectures": ["Canary"]},
    "a kind that is a path": {"model_type": "../../canary"},
    "a kind that is a list": {"model_type": ["gpt2"]},
    "no layers": {"n_layer": 0, "n_layers": 0},
    "negative sizes": {"n_embd": -8, "d_model": -8},
    "sizes that are texts": {"n_embd": "8", "d_model": "8"},
    "sizes that are no whole numbers": {"n_embd": 8.5, "d_model": 8.5},
    "heads that do not divide": {"n_head": 3, "n_heads": 3},
    "no heads": {"n_head": 0, "n_heads": 0},
    "a vocabulary of everything": {"vocab_size": 10**12, "d_vocab": 10**12},
    "a width of everything": {"n_embd": 10**9, "d_model": 10**9},
    "layers without end": {"n_layer": 10**9, "n_layers": 10**9},
    "a context of everything": {"n_positions": 10**12, "n_ctx": 10**12},
    "an unknown activation": {"activation_function": "canary", "act_fn": "canary"},
    "a quantization of its own": {"quantization_config": {"quant_method": "canary"}},
    "an adapter": {"base_model_name_or_path": "evil/repository", "_name_or_path": "evil/repo"},
    "a number format of its own": {"dtype": "os.system", "torch_dtype": "canary"},
}
TOKENIZERS: dict[str, dict[str, Any]] = {
    "code of its own": {"auto_map": {"AutoTokenizer": ["canary.Tokenizer", None]}},
    "a class of its own": {"tokenizer_class": "canary.Tokenizer"},
    "a class that is a list": {"tokenizer_class": ["a"]},
    "a template that runs": {"chat_template": "{{ ''.__class__.__mro__[1].__subclasses__() }}"},
    "special tokens that are numbers": {"bos_token": 7, "eos_token": [1]},
    "special tokens that are hostile": {"bos_token": "<img src=x onerror=alert(1)>"},
    "a negative length": {"model_max_length": -1},
    "an endless length": {"model_max_length": 10**400},
}
