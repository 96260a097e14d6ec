"""Shares of classes or clusters among real and generated images."""

from collections.abc import Sequence
from dataclasses import dataclass

# A group is lost if its generated share is below this fraction of its real share: 2% of the images for ten equal
# classes.
LOST_BELOW = 0.2

# The probability that chance makes any group count as lost.
_SIGNIFICANCE = 0.01


@dataclass(frozen=True)
class Shares:
    """Counts of images in groups, which are classes or clusters.

    Attributes:
        kind: what the groups are, in the plural: digits, modes or clusters.
        names: names of the groups.
        real, generated: numbers of images per group.
        num_real, num_generated: numbers of all images, in a group or not.
    """

    kind: str
    names: Sequence[str]
    real: Sequence[int]
    generated: Sequence[int]
    num_real: int
    num_generated: int

    @property
    def real_shares(self) -> list[float]:
        """The share of each group among all real images."""
        return [count / self.num_real for count in self.real]

    @property
    def generated_shares(self) -> list[float]:
        """The share of each group among all generated images."""
        return [count / self.num_generated for count in self.generated]

    def lost(self) -> list[int]:
        """The groups whose generated share is significantly less than a fifth of the real one.

        The test is Fisher's exact test, one-sided, at 1% over the number of groups (Bonferroni).
        """
        # scipy, which scikit-learn requires, takes a second to import.
        from scipy.stats import fisher_exact

        found = []
        for i, (real, generated) in enumerate(zip(self.real, self.generated, strict=True)):
            if generated / self.num_generated >= LOST_BELOW * real / self.num_real:
                continue
            table = [[generated, self.num_generated - generated], [real, self.num_real - real]]
            if fisher_exact(table, alternative="less").pvalue < _SIGNIFICANCE / len(self.real):
                found.append(i)
        return found

    @property
    def captured(self) -> int:
        """The number of groups with real images that are not lost."""
        return sum(count > 0 for count in self.real) - len(self.lost())

    def lost_share(self) -> float:
        """The share of the real images that are in lost groups, 0 to 1."""
        return sum(self.real[i] for i in self.lost()) / self.num_real

    def distance(self) -> float:
        """The total variation distance between the shares, 0 to 1; images in no group count as one more group."""
        return sum(abs(a / self.num_real - b / self.num_generated) for a, b in self._all_groups()) / 2

    def p_value(self) -> float:
        """The p-value of the chi-squared test that real and generated images have the same shares."""
        from scipy.stats import chi2_contingency

        table = [pair for pair in self._all_groups() if sum(pair)]
        return float(chi2_contingency(table).pvalue) if len(table) > 1 else 1.0

    def _all_groups(self) -> list[tuple[int, int]]:
        others = self.num_real - sum(self.real), self.num_generated - sum(self.generated)
        return [*zip(self.real, self.generated, strict=True), others]
