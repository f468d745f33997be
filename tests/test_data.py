"""The shard format, Split and the tokenizers. Run: python -m pytest tests/test_data.py"""

import data


def test_gpt2_encodes_the_known_ids():
    assert data.tokenizer('gpt2').encode_ordinary('Hello, world') == [15496, 11, 995]
