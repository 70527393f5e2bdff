"""Adaptive embeddings and the adaptive softmax, against torch's module and their definitions in a loop."""

import math

import pytest
import torch
from streams import assert_same_gradients
from torch import nn
from torch.nn import functional as F

from archlab.components.embedding.adaptive import AdaptiveEmbedding
from archlab.components.embedding.factored import FactoredEmbedding
from archlab.components.head.adaptive import AdaptiveHead
from archlab.components.head.factored import FactoredHead
from archlab.components.head.language_model import LanguageModelHead
from archlab.config.spec import parse
from archlab.modeling import loss
from archlab.modeling.build import build
from archlab.ops.linear_cross_entropy import IGNORED, linear_cross_entropy

V, D, CUTOFFS, FACTOR = 23, 12, [7, 15], 2
NONE = nn.Identity()
LAYER = {"mixer": {"type": "attention", "num_heads": 2, "attention": {"type": "softmax", "window_size": 32}}}
ADAPTIVE = {"type": "adaptive", "cutoffs": CUTOFFS, "factor": FACTOR}


def adaptive(**knobs):
    torch.manual_seed(0)
    embedding = AdaptiveEmbedding(V, D, cutoffs=CUTOFFS, factor=FACTOR).double()
    return embedding, AdaptiveHead(D, V, embedding, **knobs).double()


def draw(num_tokens=41):
    torch.manual_seed(1)
    x = torch.randn(num_tokens, D, dtype=torch.float64, requires_grad=True)
    return x, torch.randint(V, (num_tokens,))


def published(head):
    """Return torch's adaptive softmax with the head's weights."""
    theirs = nn.AdaptiveLogSoftmaxWithLoss(D, V, CUTOFFS, div_value=FACTOR).double()
    with torch.no_grad():
        theirs.head.weight.copy_(torch.cat((head.weight, head.clusters)))
        for (projection, matrix), tail in zip(theirs.tail, head.tails, strict=True):
            projection.weight.copy_(tail.projection.weight)
            matrix.weight.copy_(tail.weight)
    return theirs


def losses(head, x, target):
    return torch.stack([linear_cross_entropy(*term) for term in head.loss_terms(x, target)]).sum()


def test_log_probabilities_and_loss_are_those_of_torch():
    (_, head), (x, target) = adaptive(), draw()
    theirs = published(head)
    torch.testing.assert_close(head(x), theirs.log_prob(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(head(x).exp().sum(-1), torch.ones(len(x), dtype=torch.float64))
    ours, expected = losses(head, x, target), len(x) * theirs(x, target).loss
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=0)
    ours.backward()
    own = [p.grad for tail in head.tails for p in (tail.projection.weight, tail.weight)]
    dx, x.grad = x.grad, None
    expected.backward()
    torch.testing.assert_close(dx, x.grad, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(torch.cat((head.weight.grad, head.clusters.grad)), theirs.head.weight.grad)
    torch.testing.assert_close(own, [part.weight.grad for tail in theirs.tail for part in tail])


@pytest.mark.parametrize("knobs", [{}, {"tied": True}, {"tied": True, "tied_projections": True}], ids=str)
def test_the_loss_is_that_of_the_log_probabilities_where_targets_are_asked_for(knobs):
    (embedding, head), (x, target) = adaptive(**knobs), draw()
    target[::3] = IGNORED
    expected = F.nll_loss(head(x), target, reduction="sum", ignore_index=IGNORED)
    used = [table.weight for table in embedding.tables] if knobs else []
    assert_same_gradients(losses(head, x, target), expected, [x, *head.parameters(), *used])


def test_a_tied_head_is_an_untied_one_with_the_embeddings_weights():
    embedding, tied = adaptive(tied=True, tied_projections=True)
    assert sorted(name for name, _ in tied.named_parameters()) == ["clusters"]
    _, head = adaptive()
    with torch.no_grad():
        head.clusters.copy_(tied.clusters)
        head.weight.copy_(embedding.tables[0].weight)
        for tail, table in zip(head.tails, embedding.tables[1:], strict=True):
            tail.weight.copy_(table.weight)
            tail.projection.weight.copy_(table.projection.weight.T)
    x, _ = draw()
    torch.testing.assert_close(tied(x), head(x), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("scale", [False, True])
def test_a_token_is_its_own_vector_projected(scale):
    torch.manual_seed(0)
    embedding = AdaptiveEmbedding(V, D, cutoffs=CUTOFFS, factor=FACTOR, scale=scale).double()
    tokens = torch.randint(V, (3, 11))
    expected = []
    for token in tokens.flatten().tolist():
        band = sum(token >= cutoff for cutoff in CUTOFFS)
        table = embedding.tables[band]
        vector = table.weight[token - [0, *CUTOFFS][band]]
        assert len(vector) == D // FACTOR**band
        expected.append(table.projection.weight @ vector * (math.sqrt(D) if scale else 1))
    assert_same_gradients(embedding(tokens), torch.stack(expected).view(3, 11, D), list(embedding.parameters()))


def test_every_band_has_gradients_from_its_own_tokens_alone():
    embedding, _ = adaptive()
    embedding(torch.tensor([[8, 8, 14]])).sum().backward()
    assert not embedding.tables[0].weight.grad.any()
    assert embedding.tables[1].weight.grad.any(-1).nonzero().flatten().tolist() == [1, 7]


def test_factored_vectors_and_logits_are_products_of_two_matrices():
    torch.manual_seed(0)
    embedding = FactoredEmbedding(V, D, rank=5, scale=True, bias=True).double()
    nn.init.normal_(embedding.projection.bias)
    tokens, (x, target) = torch.randint(V, (3, 11)), draw()
    whole = (embedding.table @ embedding.projection.weight.T + embedding.projection.bias) * math.sqrt(D)
    assert_same_gradients(embedding(tokens), whole[tokens], list(embedding.parameters()))
    for knobs in ({"rank": 5, "tied": True}, {"rank": 3}):
        head = FactoredHead(D, V, embedding, **knobs).double()
        matrix = head.matrices[0] @ head.projection.weight
        torch.testing.assert_close(head(x), x @ matrix.T, rtol=1e-12, atol=1e-12)
        expected = F.cross_entropy(head(x), target, reduction="sum")
        assert_same_gradients(losses(head, x, target), expected, [x, head.matrices[0], *head.parameters()])
    assert head.table.shape == (V, 3)


@pytest.mark.parametrize("embedding", [ADAPTIVE, {"type": "factored", "rank": 5}], ids=lambda e: e["type"])
@pytest.mark.parametrize("tied", [False, True])
def test_training_and_evaluation_have_the_same_loss_with_few_logits_at_a_time(embedding, tied, monkeypatch):
    head = {key: value for key, value in embedding.items() if key in ("type", "rank")} | {"tied": tied}
    tree = {"type": "stack", "vocab_size": V, "dim": D, "embedding": embedding, "head": head, "layers": [LAYER]}
    model = build(parse(tree, "backbone", "model")).double()
    inputs, targets = torch.randint(V, (2, 2, 13))
    targets[0, :4] = IGNORED
    expected = F.cross_entropy(model(inputs)[0].flatten(0, 1), targets.flatten(), reduction="sum")
    monkeypatch.setattr(loss, "MAX_CHUNK_LOGITS", 5 * V)
    total, state = loss.total_loss(model, inputs, targets)
    torch.testing.assert_close(total, expected, rtol=1e-12, atol=0)
    assert state["position"].tolist() == [13, 13]
    torch.testing.assert_close(loss.token_losses(model, inputs, targets)[0].sum(), expected, rtol=1e-12, atol=0)
    parts = list(loss.iter_logits(model, inputs, targets, metrics_are_per_token=True))
    assert max(logits.shape[1] for logits, _ in parts) == 5
    torch.testing.assert_close(torch.cat([logits[0] for logits, _ in parts]), model(inputs)[0].flatten(0, 1))


@pytest.mark.parametrize(
    ("build_it", "message"),
    [
        (lambda: AdaptiveEmbedding(V, D, cutoffs=[7, 7]), r"cutoffs \[7, 7\] do not rise .* below vocab_size 23"),
        (lambda: AdaptiveEmbedding(V, D, cutoffs=[23]), "do not rise from above 0 to below vocab_size 23"),
        (lambda: AdaptiveEmbedding(V, D, cutoffs=[7, 15], factor=4), "band 2 has dim 12 / factor 4.2 features: none"),
        (lambda: AdaptiveHead(D, V, NONE), "needs cutoffs, or those of an adaptive embedding"),
        (lambda: AdaptiveHead(D, V, NONE, cutoffs=[7], tied=True), "needs an adaptive embedding with cutoffs"),
        (lambda: adaptive(tied=True, cutoffs=[8, 15], factor=2), r"an adaptive embedding with cutoffs \[8, 15\]"),
        (lambda: adaptive(tied=True, factor=3), r"cutoffs \[7, 15\] and its factor"),
        (lambda: adaptive(tied_projections=True), "set tied as well"),
        (lambda: FactoredHead(D, V, FactoredEmbedding(V, D, rank=3), rank=4, tied=True), "factored, of rank 4"),
        (lambda: LanguageModelHead(D, V, FactoredEmbedding(V, D), tied=True), "which FactoredEmbedding lacks"),
    ],
)
def test_what_does_not_fit_is_refused(build_it, message):
    with pytest.raises(ValueError, match=message):
        build_it()
