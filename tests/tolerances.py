"""Every tolerance of the library's tests, with where it comes from. They are never relaxed."""

# float64 against the float64 oracle: hundreds of roundings of 1e-16, relative to the largest entry.
ORACLE64 = 1e-11
# float32 against the same oracle in the same bases: roundings of 6e-8 through a division by
# sqrt(V), over 12 steps.
ORACLE32 = 2e-5
# Two float32 computations of the same numbers in another order.
SAME32 = 5e-6
# S^T R = 0 where S^T S g is subtracted from S^T G: ten times the rounding of one product.
OUTSIDE32 = 5e-5
# With a bf16 basis: phi g subtracted before the lift is rounded to 8 bits, lifted on its own it is
# rounded elsewhere.
BF16_LIFT = 2**-7
# 1 - b2 for a b2 that is an array is rounded to float32: 6e-8 of 1e-3, under a square root.
TRACED_B2 = 5e-5
# ||S^T S - I||_max of a float32 basis: a few roundings of sums of m products.
ORTHONORMAL32 = 2e-6
ORTHONORMAL64 = 1e-14
# The same after 1000 refreshes: for a walk the rounding errors of 1000 steps in a random walk of
# their own.
ORTHONORMAL32_AFTER_1000 = 5e-6
# A basis rounded to bfloat16 (8 bits) at each of 1000 refreshes of a walk: measured 5e-3.
ORTHONORMAL_BF16_AFTER_1000 = 2e-2
# float32 against the published codes, each with an SVD of its own: 1e-5 from theirs, whose vectors
# are wrong by 6e-8 sigma_1 / gap, 4e-7, before Adam magnifies that (with a float64 SVD in it 4e-7
# is left), and 1e-5 from Optax's 1 - b2^t in float32.
PUBLISHED32 = 3e-5
# float64 against those of them that add 1e-8 to the norms they divide by, which are of order one
# and larger here: measured 1e-8.
PUBLISHED64 = 2e-8
# ldadam orthonormalises P + delta S in place of P, ||P||_F = sqrt(r): the sine of the largest angle
# between the two ranges is at most delta / (sigma_min(P) - delta), for (I - Q Q^T) (P + delta S) x
# = delta (I - Q Q^T) S x.
POWER_SHIFT = 1e-4
# float32 on eight devices against one, over five steps and two refreshes: sums over shards are
# added in another order.
SHARDED32 = 2e-5
