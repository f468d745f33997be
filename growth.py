"""
Which layer comes from which when a model grows: the growth operators as pure arithmetic. No torch.

The ledger (schedule.py) asks here where the old, perhaps frozen, layers end up; the model (model.py) builds
what is said here; the optimizer (optim.py) copies the moments of the layers that are named here. So the three
can't disagree.

A layout is a list of (source, is_new), from the bottom layer up: the old layer that a layer is (is_new False)
or starts as a copy of (is_new True); source None for a layer that starts from an initialization of its own.

    layout('stack', 2, 4)       [(0, False), (1, False), (0, True), (1, True)]
    layout('interleave', 2, 4)  [(0, False), (0, True), (1, False), (1, True)]
    layout('random', 2, 4)      [(0, False), (1, False), (None, True), (None, True)]

To add an operator, write a function (old, new) -> layout for any depths 1 <= old < new, whose docstring
begins with what --help is to say, and put its name into OPERATORS. Every config, ledger and checkpoint then
knows it. Whatever an operator returns is checked by problem_with() when a run is planned.
"""

def layout_of(grow_map) -> list[tuple[int | None, bool]]:
    """The layout of a map: for each layer from the bottom the number of an old layer, or -1 for a fresh one.

    The first place where an old layer stands is the old layer itself; further places are copies of it.
    """
    layers, seen = [], set()
    for source in grow_map:
        if source == -1:
            layers.append((None, True))
        else:
            layers.append((source, source in seen))
            seen.add(source)
    return layers

def random(old, new):
    """new layers on top, initialized as at the start (Li, Fung, Huang 2024; Bu 2025)"""
    old_layers = [*range(old)]
    return layout_of(old_layers + [-1] * (new - old))

def zero(old, new):
    """new layers on top whose residual projections are zero: the function does not change (LLaMA Pro 2024)"""
    return random(old, new)  # model.py sets the projections to zero

def copy_last(old, new):
    """the top layer again, on top (one of the variants in Bu 2025)"""
    old_layers = [*range(old)]
    return layout_of(old_layers + [old - 1] * (new - old))

def stack(old, new):
    """the whole list of layers again, on top: 1 2 3 1 2 3 (Gong et al. 2019; G_stack 2024)"""
    # The last repetition stops in the middle where `new` is no multiple of `old`.
    return layout_of(i % old for i in range(new))

def interleave(old, new):
    """each layer doubled in place: 1 1 2 2 3 3 (interposition, arXiv 2510.08008)"""
    # Where the copies don't go round, they are spread evenly over the layers.
    return layout_of(i * old // new for i in range(new))

def middle(old, new):
    """the middle layers again, in the middle: 1 2 2 3 (MIDAS 2024)"""
    # As many layers as are needed, from around the middle, stand again right above themselves.
    count = min(new - old, old)
    first = (old - count) // 2
    copies = [first + i % count for i in range(new - old)]
    below, above = range(first + count), range(first + count, old)
    return layout_of([*below, *copies, *above])

def middle_layer(old, new):
    """the middle layer again and again, in the middle: 1 2 2 2 3 (LIDAS, arXiv 2512.08819)"""
    center = (old - 1) // 2  # of two layers in the middle the lower one
    copies = [center] * (new - old)
    below, above = range(center + 1), range(center + 1, old)
    return layout_of([*below, *copies, *above])

OPERATORS = {f.__name__: f for f in (random, zero, copy_last, stack, interleave, middle, middle_layer)}

def layout(init: str, old: int, new: int) -> list[tuple[int | None, bool]]:
    """The layout by the operator `init` of a model that grows from depth `old` to depth `new` > `old`."""
    if old == 0:
        return [(None, True)] * new  # whatever the operator: there is nothing to copy
    return list(OPERATORS[init](old, new))

def problem_with(layers, old: int, new: int) -> str:
    """What is wrong with a layout from `old` to `new` layers, in words; '' if it is right."""
    if len(layers) != new:
        return f'makes {len(layers)} layers out of {old}, not {new}'
    kept = []  # the old layers that are still there
    for source, is_new in layers:
        if source is not None and not 0 <= source < old:
            return f'takes layer {source}, and there are only the layers 0 to {old - 1}'
        if not is_new:
            kept.append(source)
    for i in range(old):
        if kept.count(i) != 1:
            return f'keeps layer {i} {kept.count(i)} times, not once'
    if len(kept) != old:
        return 'keeps a layer that has no source'
    return ''

def describe(layers) -> str:
    """A layout for people: 0 1 2 kept, +0' a copy of layer 0, +new a fresh one."""
    words = []
    for source, is_new in layers:
        if source is None:
            words.append('+new')
        else:
            words.append(f"+{source}'" if is_new else str(source))
    return ' '.join(words)
