"""The softmax losses, by weighted_kl: LD of edges, KD of class logits, CWD of features. Ratios: test_race."""

from benchmarks.workloads import KL_OPS

OPS = KL_OPS


def test_kl(case, provider, measure):
    measure(case, provider)
