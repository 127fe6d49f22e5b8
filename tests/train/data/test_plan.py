"""About 5 % of any text is held out, and nothing is on both sides."""

import hashlib
import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from train.data.plan import DIGEST, Piece, Plan, plan_of

SMALLEST = 1000  # bytes, below which a boundary may be too far


def text_of_size(number: int, size: int) -> bytes:
    """A text of its own: words, and characters of several bytes."""
    words = ["one", "two,", "three.", "four\nfünf", "六", ""]
    random.seed(number)
    text = f"{number} ".encode()
    while len(text) < size:
        text += random.choice(words).encode() + b" "
    return text[:size].decode(errors="ignore").encode().ljust(size, b"x")


def planned(texts: list[bytes]) -> Plan:
    digests = b"".join(hashlib.sha256(text).digest()[:DIGEST] for text in texts)
    sizes = np.asarray([len(text) for text in texts], np.int64)
    return plan_of(np.frombuffer(digests, np.uint8).reshape(-1, DIGEST), sizes, np.zeros(len(texts), np.int8))


def sides(texts: list[bytes], plan: Plan, block: int) -> tuple[list[str], list[str]]:
    """The texts of both sides, read in pieces of `block` bytes, where that is a whole character."""
    result: tuple[list[str], list[str]] = ([], [])
    for number, text in enumerate(texts):
        at = 0
        while at < len(text):
            end = at + block
            while end < len(text) and text[end] & 0xC0 == 0x80:
                end += 1
            for is_held_out, part in plan.sides(Piece(number, "", at, text[at:end], None)):
                result[is_held_out].append(part)
            at = end
    return result


SIZES = st.lists(st.one_of(st.integers(0, 50), st.integers(0, 3000), st.integers(0, 40_000)), max_size=30)


@settings(deadline=None, max_examples=60)
@given(SIZES.filter(lambda sizes: sum(sizes) >= SMALLEST), st.integers(3000, 50_000))
def test_three_to_eight_percent_of_any_texts_are_held_out(sizes: list[int], block: int) -> None:
    texts = [text_of_size(number, size) for number, size in enumerate(sizes)]
    different = list(dict.fromkeys(text for text in texts if text))
    training, held_out = sides(texts, plan := planned(texts), block)
    total = sum(map(len, different))
    assert 0.03 * total <= sum(len(text.encode()) for text in held_out) <= 0.08 * total
    assert sum(len(text.encode()) for text in training + held_out) == total == plan.size


def test_the_sides_do_not_depend_on_names_order_or_repetitions() -> None:
    texts = [text_of_size(number, 500 + 7 * number) for number in range(40)]
    expected = [sorted(side) for side in sides(texts, planned(texts), 10_000)]
    random.seed(1)
    shuffled = random.sample([*texts, *texts[:9], b""], 50)
    assert [sorted(side) for side in sides(shuffled, planned(shuffled), 10_000)] == expected
    assert not set(expected[0]) & set(expected[1])
    assert planned(texts).counts == (38, 2)


def test_few_documents_are_cut_at_a_boundary() -> None:
    long, note = b"a line of text\n" * 160_000, b"a note " * 90
    for texts in ([long], [long, note], [long, b"x" * 28], [long + b"2", long, long + b"3"]):
        plan = planned(texts)
        training, held_out = sides(texts, plan, 1 << 20)
        share = sum(map(len, held_out)) / sum(map(len, texts))
        assert 0.04 <= share <= 0.05
        assert plan.cut[0] >= 0
        assert any(part.startswith("a line of text\n") for part in held_out)
    assert plan.counts == (3, 1)


def test_a_source_may_divide_its_texts_itself() -> None:
    digests = np.arange(3 * DIGEST, dtype=np.uint8).reshape(3, DIGEST)
    digests[2] = digests[0]
    plan = plan_of(digests, np.full(3, 100), np.asarray([1, -1, -1], np.int8))
    assert plan.is_held_out.tolist() == [True, False, False]
    assert plan.is_kept.tolist() == [True, True, False]  # the third is held out as the first
    assert plan.cut == (-1, 0)
