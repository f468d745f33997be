"""
Talk to a checkpoint: text that continues a prompt, token by token.

    python sample.py out/incremental_8stage_cpu "The function returns"
    python sample.py out/incremental_8stage/stage_03.pt --n=3 --temperature=0.8 --top_k=50 --seed=7

Takes what hellaswag.py takes: a checkpoint, a run directory, a Hugging Face GPT-2 folder, or gpt2. Without
a prompt a document begins (end-of-text is what every training document starts with); at an end-of-text of
its own the sample ends. The same seed gives the same text, sample i of --n the same whatever n is. No
key-value cache: it is for a look, not for service.
"""

import codecs
import math

from core.common import Parser, UserError, run_main

def parse_args():
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add('checkpoint', help='checkpoint, run directory, Hugging Face folder, or gpt2')
    add('text', nargs='?', default='', help='text to continue')
    add('--prompt', default='', help='the same')
    add('--tokens', type=int, default=200, help='tokens to add at most (default %(default)s)')
    add('--temperature', type=float, default=0.8, help='0: always the likeliest token (default %(default)s)')
    add('--top_k', type=int, default=0, help='choose among the k likeliest tokens; 0: among all')
    add('--seed', type=int, default=1337, help='(default %(default)s)')
    add('--n', type=int, default=1, help='samples (default %(default)s)')
    add('--device', default='auto', help="'auto' or a torch device")
    args = parser.parse_args()
    if args.text and args.prompt:
        raise UserError(f'two prompts: {args.text!r} and --prompt={args.prompt!r}')
    args.prompt = args.prompt or args.text
    least_values = {'tokens': 1, 'n': 1, 'top_k': 0, 'seed': 0, 'temperature': 0}
    for name, least in least_values.items():
        value = getattr(args, name)
        if not least <= value < math.inf:  # also refuses nan
            raise UserError(f'--{name} must be at least {least}, not {value}')
    if args.seed >= 2**32:
        raise UserError(f'--seed must be below 2**32, not {args.seed}')
    return args

if __name__ == '__main__':  # --help and a wrong flag are answered before torch takes its seconds to load
    run_main(parse_args)

import torch

from core import data
from core.device import pick_device
from run import checkpoint

def main():
    args = parse_args()
    model, info = checkpoint.load_model(args.checkpoint, pick_device(args.device))
    checkpoint.check_vocabulary(info['tokenizer'], model.config.vocab_size, info['path'])
    enc = data.get_tokenizer(info['tokenizer'], info['path'])
    prompt = enc.encode_ordinary(args.prompt) or [enc.eot_token]
    for i in range(args.n):
        print(args.prompt, end='', flush=True)
        decoder = codecs.getincrementaldecoder('utf-8')('replace')  # a character may be several tokens
        seed = args.seed + i
        drawn = generate(model, prompt, args.tokens, enc.n_vocab, args.temperature, args.top_k, seed)
        for token in drawn:
            if token == enc.eot_token:
                break
            text = decoder.decode(enc.decode_single_token_bytes(token))
            print(text, end='', flush=True)
        print(decoder.decode(b'', final=True))  # a mark for a character that was begun
        if i + 1 < args.n:
            print('---')

@torch.no_grad()
def generate(model, tokens: list[int], n: int, n_vocab: int, temperature: float, top_k: int, seed: int):
    """Yield n tokens that continue `tokens`, each below n_vocab: rows above it are padding that no
    tokenizer knows.

    The context is the last block_size tokens. Drawn on the CPU from a generator of its own, seeded with
    `seed`.
    """
    device = model.transformer.wte.weight.device
    generator = torch.Generator().manual_seed(seed)
    tokens = list(tokens)
    for _ in range(n):
        context = tokens[-model.config.block_size:]
        row = torch.tensor([0], device=device)
        last = torch.tensor([len(context) - 1], device=device)
        # Only the last position's logits are computed.
        logits = model.logits(torch.tensor([context], device=device), (row, last))  # (1, vocab_size)
        logits = logits[0, :n_vocab].float().cpu()
        if temperature == 0:  # nothing is drawn, so that no seed matters
            token = int(logits.argmax())
        else:
            if top_k:
                least = logits.topk(min(top_k, n_vocab)).values[-1]
                logits[logits < least] = -math.inf
            # The largest logit becomes 0 first: divided by a tiny temperature it would overflow.
            probabilities = ((logits - logits.max()) / temperature).softmax(0)
            token = int(torch.multinomial(probabilities, 1, generator=generator))
        tokens.append(token)
        yield token

if __name__ == '__main__':
    run_main(main)
