"""
Which layer comes from which when a model grows: the growth operators as pure arithmetic. No torch.

The ledger (schedule.py) asks here where the old, perhaps frozen, layers end up; the model (model.py) builds what is said
here; the optimizer (optim.py) copies the moments of the layers that are named here. So the three can't disagree.

A layout is a list of (source, is_new), from the bottom layer up: the old layer that a layer is (is_new False) or starts
as a copy of (is_new True); source None for a layer that starts from an initialization of its own.

    layout('stack', 3, 6)       [(0, False), (1, False), (2, False), (0, True), (1, True), (2, True)]
    layout('interleave', 3, 6)  [(0, False), (0, True), (1, False), (1, True), (2, False), (2, True)]
    layout('random', 3, 5)      [(0, False), (1, False), (2, False), (None, True), (None, True)]

An operator is a function (old, new) -> layout for any depths 1 <= old < new, and one entry of OPERATORS: write the
function, whose docstring begins with what --help is to say, add its name to the tuple, and every config, ledger and
checkpoint knows it. What an operator returns is checked by problem_with() wherever it is used.
"""


def layout_of(grow_map) -> list[tuple[int | None, bool]]:
    """The layout that a map means: for each layer from the bottom the number of an old layer, or -1 for a fresh one.

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
    return layout_of([*range(old)] + [-1] * (new - old))


def zero(old, new):
    """new layers on top whose residual projections are zero: the function does not change (LLaMA Pro 2024)"""
    return random(old, new)  # model.py sets the projections to zero


def copy_last(old, new):
    """the top layer again, on top (one of the variants in Bu 2025)"""
    return layout_of([*range(old)] + [old - 1] * (new - old))


def stack(old, new):
    """the whole list of layers again, on top: 1 2 3 1 2 3 (Gong et al. 2019; G_stack 2024)"""
    return layout_of(i % old for i in range(new))  # stops in the middle of a repetition where the depths ask for it


def interleave(old, new):
    """each layer doubled in place: 1 1 2 2 3 3 (interposition, arXiv 2510.08008)"""
    return layout_of(i * old // new for i in range(new))  # copies spread evenly, the lowest layers first


def middle(old, new):
    """the middle layers again, in the middle: 1 2 2 3 (MIDAS 2024)"""
    count = min(new - old, old)  # as many as are needed, from around the middle, right after themselves
    first = (old - count) // 2
    copies = [first + i % count for i in range(new - old)]
    return layout_of([*range(first + count), *copies, *range(first + count, old)])


def middle_layer(old, new):
    """the middle layer again and again, in the middle: 1 2 2 2 3 (LIDAS, arXiv 2512.08819)"""
    center = (old - 1) // 2  # of two layers in the middle the lower one
    return layout_of([*range(center + 1)] + [center] * (new - old) + [*range(center + 1, old)])


OPERATORS = {f.__name__: f for f in (random, zero, copy_last, stack, interleave, middle, middle_layer)}


def layout(init: str, old: int, new: int) -> list[tuple[int | None, bool]]:
    """The layout by the operator called `init` of a model of depth `new` grown from one of depth `old` < `new`.

    From depth 0 all layers are fresh, whatever the operator: there is nothing to copy.
    """
    if old == 0:
        return [(None, True)] * new
    return list(OPERATORS[init](old, new))


def problem_with(layers, old: int, new: int) -> str:
    """What is wrong with a layout from `old` to `new` layers, in words; '' if it is right."""
    if len(layers) != new:
        return f'makes {len(layers)} layers out of {old}, not {new}'
    kept = []
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
