"""Tiny random models of each class that we read, with a tokenizer trained here: no network."""

import torch

def make_tokenizer(n_tokens=320):
    """A byte-level BPE with <|endoftext|>, by the tokenizers library."""
    import tokenizers

    text = ['The quick brown fox jumps over the lazy dog. ' * 3, 'A man sits up and waves at the dog, ' * 3]
    tokenizer = tokenizers.ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(text, n_tokens, special_tokens=['<|endoftext|>'])
    return tokenizer._tokenizer

def save_tokenizer(folder, n_tokens=320):
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(tokenizer_object=make_tokenizer(n_tokens), eos_token='<|endoftext|>')
    fast.save_pretrained(folder)

LLAMA3 = {'rope_type': 'llama3', 'rope_theta': 5000.0, 'factor': 8.0, 'low_freq_factor': 1.0,
          'high_freq_factor': 4.0, 'original_max_position_embeddings': 16}
KINDS = {
    'llama': ('Llama', {}),
    'llama3': ('Llama', {'rope_parameters': LLAMA3, 'tie_word_embeddings': True}),
    'smollm2': ('Llama', {'tie_word_embeddings': True, 'num_key_value_heads': 4}),
    'qwen2': ('Qwen2', {'tie_word_embeddings': True}),
    # a width that is no multiple of its heads
    'qwen3': ('Qwen3', {'head_dim': 16, 'hidden_size': 34, 'tie_word_embeddings': False}),
}

def make_model(kind, **changes):
    """A model of transformers, every weight of it random, norms and biases too."""
    import transformers

    name, own = KINDS[kind]
    values = {'vocab_size': 320, 'hidden_size': 32, 'intermediate_size': 96, 'num_hidden_layers': 3,
              'num_attention_heads': 4, 'num_key_value_heads': 2, 'max_position_embeddings': 64,
              'bos_token_id': 0, 'eos_token_id': 0}
    config = getattr(transformers, f'{name}Config')(**values | own | changes)
    torch.manual_seed(0)
    model = getattr(transformers, f'{name}ForCausalLM')(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape) * 0.1)
    return model

def make_folder(folder, kind, dtype=torch.float32, shard_size='5GB', **changes):
    model = make_model(kind, **changes).to(dtype)
    model.save_pretrained(folder, max_shard_size=shard_size)
    save_tokenizer(folder)
    return model.float()
