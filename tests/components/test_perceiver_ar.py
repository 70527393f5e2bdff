"""Perceiver AR is a stack: a layer of attention to all inputs, then layers of attention among blocks of latents.

Letters in suffixes: T inputs, N latents, D width, H heads, K width of a head.
"""

import pytest
import torch

from archlab.config.experiment import load
from archlab.config.spec import parse
from archlab.modeling.build import build as build_spec

VOCAB, DIM, HEADS, LATENTS, DEPTH = 11, 8, 2, 4, 2
K = DIM // HEADS


def layer(**attention):
    mixer = {"type": "attention", "num_heads": HEADS, "bias": True, "attention": {"type": "softmax", **attention}}
    ffn = {"type": "mlp", "hidden_dim": 12, "activation": "relu2", "bias": True}
    return {"norm": "layer", "mixer": mixer, "ffn_norm": "layer", "ffn": ffn}


def build():
    latent = layer(window="chunk", window_size=LATENTS) | {"repeat": DEPTH}
    tree = {
        "type": "stack",
        "vocab_size": VOCAB,
        "dim": DIM,
        "norm": "layer",
        "layers": [layer(window_size=32), latent],
    }
    model = build_spec(parse(tree, "backbone", "model")).double()
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


def text(num_tokens):
    return torch.randint(VOCAB, (1, num_tokens), generator=torch.Generator().manual_seed(1))


def seen(outputs_TD, inputs_1TD):
    """Return for every output the inputs that move it."""
    found = []
    for y in outputs_TD:
        gradient, *_ = torch.autograd.grad(y.sum(), inputs_1TD, retain_graph=True)
        found.append(gradient[0].any(-1).nonzero().flatten().tolist())
    return found


def test_a_latent_sees_inputs_up_to_its_own_and_latents_of_its_own_block_up_to_itself():
    model, kept = build(), {}

    def keep(name):
        def hook(_, __, output):
            kept[name] = output[0] if isinstance(output, tuple) else output

        return hook

    model.embedding.register_forward_hook(keep("inputs"))
    model.blocks[0].register_forward_hook(keep("latents"))
    logits, _ = model(text(11))
    everything = [list(range(t + 1)) for t in range(11)]
    block = [list(range(t // LATENTS * LATENTS, t + 1)) for t in range(11)]
    assert seen(kept["latents"][0], kept["inputs"]) == everything
    assert seen(logits[0], kept["latents"]) == block
    assert seen(logits[0], kept["inputs"]) == everything


def turned(x_THK, first):
    """Return each pair of features rotated by its position times base^(-2i/K)."""
    angle = (first + torch.arange(len(x_THK)))[:, None, None] * 10000.0 ** (-2 * torch.arange(K // 2) / K).double()
    pairs = torch.view_as_complex(x_THK.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angle), angle)).flatten(-2)


def normed(norm, x):
    centred = x - x.mean(-1, keepdim=True)
    rate = (centred.square().mean(-1, keepdim=True) + 1e-5).rsqrt()
    return centred * rate * (1 + norm.weight) + norm.bias


def attended(mixer, queries_ND, keys_TD):
    """Attend from the last N positions to all T, each to those up to itself."""
    (N, T), outputs = (len(queries_ND), len(keys_TD)), []
    q = turned(mixer.query(queries_ND).view(N, HEADS, K), T - N)
    k, v = turned(mixer.key(keys_TD).view(T, HEADS, K), 0), mixer.value(keys_TD).view(T, HEADS, K)
    for n in range(N):
        upto = T - N + n + 1
        weights = torch.einsum("hk,thk->ht", q[n], k[:upto]).div(K**0.5).softmax(-1)
        outputs.append(torch.einsum("ht,thk->hk", weights, v[:upto]).flatten())
    return mixer.out(torch.stack(outputs))


def perceiver_ar(model, tokens_T, num_latents):
    """Cross-attend from the last inputs to all, then self-attend among these alone."""
    x_TD = model.embedding.weight[tokens_T]
    z_ND = x_TD[-num_latents:]
    for index, block in enumerate(model.blocks):
        from_TD = normed(block.norm, x_TD if index == 0 else z_ND)
        z_ND = z_ND + attended(block.mixer, normed(block.norm, z_ND), from_TD)
        h = block.ffn.up(normed(block.ffn_norm, z_ND)).relu().square()
        z_ND = z_ND + block.ffn.down(h)
    return normed(model.norm, z_ND) @ model.head.weight.T


@pytest.mark.parametrize(("num_tokens", "num_latents"), [(4, 4), (8, 4), (16, 4), (3, 3), (10, 2), (9, 1)])
def test_the_last_block_is_the_papers_model(num_tokens, num_latents):
    model, tokens = build(), text(num_tokens)
    logits, _ = model(tokens)
    expected = perceiver_ar(model, tokens[0], num_latents)
    torch.testing.assert_close(logits[0, -num_latents:], expected, rtol=1e-10, atol=1e-10)
    parameters = list(model.parameters())
    ours = torch.autograd.grad(logits[0, -num_latents:].square().sum(), parameters)
    theirs = torch.autograd.grad(expected.square().sum(), parameters)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["perceiver_ar_tiny", "perceiver_ar_pg19"])
def test_the_experiments_are_such_stacks(name):
    experiment = load(name)
    attentions = [layer["mixer"]["attention"] for layer in experiment.model.to_plain()["layers"]]
    assert [attention["window"] for attention in attentions] == ["full", "chunk"]
    assert attentions[0]["window_size"] == experiment.train.context
    assert experiment.train.context % attentions[1]["window_size"] == 0
