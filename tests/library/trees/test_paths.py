"""What the path of a leaf says."""

import jax
import pytest
from flax import nnx

from grass_optax import layouts


def path_of(tree):
    ((path, _),) = jax.tree.leaves_with_path(tree)
    return path


@pytest.mark.parametrize(
    ("tree", "is_embedding", "is_head"),
    [
        ({"token_embedding": {"table": 0}}, True, False),
        ({"wte": 0}, True, False),
        ({"LM_Head": {"kernel": 0}}, False, True),
        ({"logits": [0]}, False, True),
        ({"emb": 0}, True, False),
        ({"tok_emb": {"weight": 0}}, True, False),
        ({"out": {"kernel": 0}}, False, True),
        ({"layers": [{"attention": {"out": {"kernel": 0}}}]}, False, False),
        ({"member": 0}, False, False),
        ({"headline": {"kernel": 0}}, False, False),
        ({"layers": {"3": {"attention_heads": 0}}}, False, False),
    ],
)
def test_embeddings_and_heads_are_known_by_a_part_of_their_path(tree, is_embedding, is_head):
    assert layouts.is_embedding(path_of(tree)) == is_embedding
    assert layouts.is_head(path_of(tree)) == is_head


def test_an_nnx_state_has_the_paths_of_plain_dicts():
    state = nnx.State({"layers": {"kernel": nnx.Param(jax.numpy.ones(2))}})
    assert layouts.leaf_path(path_of(state)) == layouts.leaf_path(path_of({"layers": {"kernel": 0}})) == "layers/kernel"
