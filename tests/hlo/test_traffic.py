"""What a compiled program sends: small programs on eight devices, and the forms in which other
backends write it.
"""

import pytest

from hlo.traffic import Sent, collectives

GROUPS = [
    ("replica_groups={{0,1},{2,3},{4,5},{6,7}}", 2),
    ("replica_groups=[2,4]<=[8]", 4),
    ("replica_groups=[2,4]<=[4,2]T(1,0)", 4),
    ("replica_groups={}", 8),
    ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}", 4),
    ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_0','axis_1'}", 8),
    ("replica_groups=mesh['axis_0'=8] {'axis_0':(2)4}", 4),
]


def program(*lines: str, before: str = "") -> str:
    body = "\n".join(f"  {line}" for line in lines)
    layout = ", ".join(["f32[8]{0}"] * 300)  # which stands before the counts and may be long
    head = f"HloModule m, is_scheduled=true, entry_computation_layout={{({layout})->f32[8]{{0}}}}, num_partitions=8"
    return f"{head}\n\n{before}ENTRY %main (p: f32[8]) -> f32[8] {{\n{body}\n}}\n"


@pytest.mark.parametrize(("groups", "size"), GROUPS)
def test_groups_in_every_form(groups: str, size: int) -> None:
    (one,) = collectives(program(f"ROOT %a = f32[8]{{0}} all-reduce(%p), channel_id=1, {groups}"))
    assert (one.group_size, one.bytes) == (size, round(2 * (size - 1) / size * 32))


def test_unknown_groups_are_an_error() -> None:
    with pytest.raises(ValueError, match="groups of a collective are not understood"):
        collectives(program("ROOT %a = f32[8]{0} all-reduce(%p), channel_id=1, replica_groups=new"))


def test_what_is_no_program_is_an_error() -> None:
    with pytest.raises(ValueError, match="has no ENTRY"):
        collectives("HloModule m\n")


def test_what_starts_and_is_done_later_counts_once() -> None:
    """Operands and numbers of its own are in the result of a start."""
    text = program(
        "%s = (f32[1,8]{1,0}, f32[8,8]{1,0}) all-gather-start(%p), channel_id=1, replica_groups=[1,8]<=[8]",
        "%d = f32[8,8]{1,0} all-gather-done(%s)",
        "%t = (bf16[8]{0}, f32[4]{0}) all-reduce-start(%p, %q), channel_id=2, replica_groups=[1,8]<=[8]",
        "%e = (bf16[8]{0}, f32[4]{0}) all-reduce-done(%t)",
        "%u = (f32[8]{0}, f32[8]{0}, u32[], u32[]) collective-permute-start(%p), source_target_pairs={{0,1},{1,0}}",
        "ROOT %f = f32[8]{0} collective-permute-done(%u)",
    )
    assert collectives(text) == [
        Sent("all-gather", "f32", (8, 8), 8, False, 1, 7 * 32),
        Sent("collective-permute", "f32", (8,), 2, False, 1, 32),
        Sent("all-reduce", "bf16", (8,), 8, False, 1, 28),
        Sent("all-reduce", "f32", (4,), 8, False, 1, 28),
    ]


def test_an_asynchronous_call_counts_once() -> None:
    scatter = (
        "%wrapped (q: f32[8]) -> f32[1] {\n"
        "  ROOT %r = f32[1]{0} reduce-scatter(%q), channel_id=1, replica_groups=[1,8]<=[8], dimensions={0}\n}\n\n"
    )
    text = program(
        "%s = ((f32[8]{0}), f32[1]{0}) async-start(%p), calls=%wrapped",
        "ROOT %d = f32[1]{0} async-done(%s), calls=%wrapped",
        before=scatter,
    )
    assert collectives(text) == [Sent("reduce-scatter", "f32", (1,), 8, False, 1, 28)]


def test_a_sum_fused_with_its_slice_is_a_reduce_scatter() -> None:
    """As a TPU's compiler writes one, with what it pads."""
    fused = """\
%all-reduce-scatter.1 (input: bf16[12,4]) -> bf16[2,4] {
  %input = bf16[12,4]{1,0:T(8,128)(2,1)} parameter(0)
  %pad = bf16[16,4]{1,0:T(8,128)(2,1)} pad(%input, %c), padding=0_4x0_0
  %all-reduce.1 = bf16[16,4]{1,0:T(8,128)(2,1)} all-reduce(%pad), channel_id=2, replica_groups={{0,1,2,3,4,5,6,7}}
  ROOT %s = bf16[2,4]{1,0:T(8,128)(2,1)S(1)} dynamic-slice(%all-reduce.1, %i, %c), dynamic_slice_sizes={2,4}
}

"""
    text = program("ROOT %f = bf16[2,4]{1,0} fusion(%p), kind=kCustom, calls=%all-reduce-scatter.1", before=fused)
    assert collectives(text) == [Sent("reduce-scatter", "bf16", (2, 4), 8, False, 1, 7 * 16)]


CHAIN = """\
%start (a: f32[1,8]) -> (f32[1,8], f32[8,8], u32[]) {
  %a = f32[1,8]{1,0} parameter(0)
  %g = f32[8,8]{1,0} all-gather(%a), channel_id=5, replica_groups=[1,8]<=[8], frontend_attributes={chain_id="0"}
  ROOT %x = (f32[1,8]{1,0}, f32[8,8]{1,0}, u32[]{:S(2)}) custom-call(%g), custom_call_target="AsyncCollectiveStart"
}

%piece (b: f32[1,8], c: f32[8,8]) -> (f32[8,8], f32[8,8]) {
  %b = f32[1,8]{1,0} parameter(0)
  %c = f32[8,8]{1,0} parameter(1)
  %h = f32[8,8]{1,0} all-gather(%b), channel_id=5, replica_groups=[1,8]<=[8], frontend_attributes={chain_id="0"}
  ROOT %y = (f32[8,8]{1,0}, f32[8,8]{1,0}) tuple(%c, %h)
}

"""


def test_a_gather_that_is_spread_over_fusions_counts_once() -> None:
    text = program(
        "%s = (f32[1,8]{1,0}, f32[8,8]{1,0}, u32[]) fusion(%p), kind=kCustom, calls=%start",
        "ROOT %m = (f32[8,8]{1,0}, f32[8,8]{1,0}) fusion(%p, %s), kind=kOutput, calls=%piece",
        before=CHAIN,
    )
    assert collectives(text) == [Sent("all-gather", "f32", (8, 8), 8, False, 1, 7 * 32)]


def looped(start: str, compared: str, grown: str) -> str:
    """A loop as a TPU's compiler writes it, which does not say how often it turns."""
    sides = f"""\
%body (c: (s32[], f32[8])) -> (s32[], f32[8]) {{
  %c = (s32[]{{:T(128)}}, f32[8]{{0:T(128)}}) parameter(0)
  %x = f32[8]{{0:T(128)}} get-tuple-element(%c), index=1
  %k = s32[]{{:T(128)}} get-tuple-element(%c), index=0
  %one = s32[]{{:T(128)}} constant(1)
  %two = s32[]{{:T(128)}} constant(2)
  %next = s32[]{{:T(128)}} {grown}
  %j = s32[]{{:T(128)}} copy(%next)
  %r = f32[8]{{0:T(128)}} all-reduce(%x), channel_id=1, replica_groups=[1,8]<=[8]
  ROOT %t = (s32[], f32[8]) tuple(%j, %r)
}}

%condition (d: (s32[], f32[8])) -> pred[] {{
  %end = s32[]{{:T(128)}} constant(32)
  %d = (s32[]{{:T(128)}}, f32[8]{{0:T(128)}}) parameter(0)
  %i = s32[]{{:T(128)}} get-tuple-element(%d), index=0
  ROOT %lt = pred[]{{:T(512)}} {compared}
}}

"""
    return program(
        f"%zero = s32[]{{:T(128)}} {start}",
        "%copy.1 = s32[]{:T(128)} copy(%zero)",
        "%carry = (s32[]{:T(128)}, f32[8]{0:T(128)}) tuple(%copy.1, %p)",
        "ROOT %w = (s32[]{:T(128)}, f32[8]{0:T(128)}) while(%carry), condition=%condition, body=%body",
        before=sides,
    )


LESS, BY_ONE = "compare(%i, %end), direction=LT", "add(%k, %one)"


@pytest.mark.parametrize(
    ("start", "compared", "grown", "times", "conditional"),
    [
        ("constant(0)", LESS, BY_ONE, 32, False),
        ("constant(2)", LESS, BY_ONE, 30, False),
        ("constant(0)", LESS, "add(%k, %two)", 16, False),
        ("constant(1)", LESS, "add(%two, %k)", 16, False),
        ("constant(0)", LESS, "add(%k, %k)", 1, True),  # grows by something
        ("constant(0)", LESS, "multiply(%k, %two)", 1, True),
        ("parameter(1)", LESS, BY_ONE, 1, True),  # starts somewhere
        ("constant(0)", "compare(%i, %end), direction=NE", BY_ONE, 1, True),
        ("constant(0)", "compare(%i, %d), direction=LT", BY_ONE, 1, True),  # ends somewhere
    ],
)
def test_turns_are_read_where_the_compiler_does_not_say_them(
    start: str, compared: str, grown: str, times: int, conditional: bool
) -> None:
    (one,) = collectives(looped(start, compared, grown))
    assert (one.times, one.conditional) == (times, conditional)
