"""Sets of shingles as sorted runs of distinct hashes, and the exact Jaccard similarity of pairs of them."""

from nearhash.kernels.jit import jit


@jit
def distinct_rows(indptr, tokens, first, last, counts):
    """Sort the tokens of rows first..last in place, the distinct ones before the rest.

    indptr (n + 1,) int64, tokens (m,) uint64; counts (n,) int64: how many distinct ones each row has.
    """
    for row in range(first, last):
        start, stop = indptr[row], indptr[row + 1]
        tokens[start:stop].sort()
        filled = start
        for i in range(start, stop):
            if i == start or tokens[i] != tokens[filled - 1]:
                tokens[filled] = tokens[i]
                filled += 1
        counts[row] = filled - start


@jit
def gather_rows(indptr, tokens, counts, first, last, targets, out):
    """Copy the first counts[row] tokens of rows first..last to out from targets[row] on."""
    for row in range(first, last):
        start, target = indptr[row], targets[row]
        for i in range(counts[row]):
            out[target + i] = tokens[start + i]


@jit
def jaccard_pairs(indptr, tokens, left, right, first, last, out):
    """Jaccard similarity of pairs first..last of sets.

    indptr (n + 1,) int64 and tokens (m,) uint64: sorted, distinct within a set; left, right (p,) int64: numbers of
    sets; out (p,) float64: ``|A & B| / |A | B|``, 1 for two empty sets.
    """
    for pair in range(first, last):
        i, i_end = indptr[left[pair]], indptr[left[pair] + 1]
        j, j_end = indptr[right[pair]], indptr[right[pair] + 1]
        total = (i_end - i) + (j_end - j)
        common = 0
        while i < i_end and j < j_end:
            a, b = tokens[i], tokens[j]
            common += a == b
            i += a <= b
            j += b <= a
        out[pair] = common / (total - common) if total else 1.0
