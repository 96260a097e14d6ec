"""How images spread over classes or clusters, real and generated ones."""

from collections.abc import Sequence
from dataclasses import dataclass

# Of the real share: with ten digits of the same share these are 2% of the images, as for the modes of the Gaussians.
LOST_BELOW = 0.2

# That the shares of a group are found lost by chance alone, in one of all groups.
_SIGNIFICANCE = 0.01


@dataclass(frozen=True)
class Shares:
    """Counts of images in groups, which are classes or clusters.

    Attributes:
        kind: what the groups are, in the plural: digits, modes or clusters.
        names: of the groups.
        real: how many real images are in each.
        generated: how many generated images are in each.
        num_real: all real images, in a group or not.
        num_generated: all generated images, in a group or not.
    """

    kind: str
    names: Sequence[str]
    real: Sequence[int]
    generated: Sequence[int]
    num_real: int
    num_generated: int

    @property
    def real_shares(self) -> list[float]:
        """Of all real images."""
        return [count / self.num_real for count in self.real]

    @property
    def generated_shares(self) -> list[float]:
        """Of all generated images."""
        return [count / self.num_generated for count in self.generated]

    def lost(self) -> list[int]:
        """The groups whose generated share is less than a fifth of the real one, and not by chance.

        Chance is judged by Fisher's exact test, one-sided, at 1% over the number of groups (Bonferroni).
        """
        # scipy takes a second to import; it comes with scikit-learn.
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
        """How many of the groups with real images are not lost."""
        return sum(count > 0 for count in self.real) - len(self.lost())

    def lost_share(self) -> float:
        """The share of the real images in groups that are lost, 0 to 1."""
        return sum(self.real[i] for i in self.lost()) / self.num_real

    def distance(self) -> float:
        """The total variation between the shares, 0 to 1; what is in no group counts as one more."""
        real, generated = self.real_shares, self.generated_shares
        pairs = zip([*real, 1 - sum(real)], [*generated, 1 - sum(generated)], strict=True)
        return sum(abs(a - b) for a, b in pairs) / 2

    def p_value(self) -> float:
        """Of the chi-squared test that real and generated images have the same shares."""
        from scipy.stats import chi2_contingency

        rows = zip(
            [*self.real, self.num_real - sum(self.real)],
            [*self.generated, self.num_generated - sum(self.generated)],
            strict=True,
        )
        table = [pair for pair in rows if sum(pair)]
        return float(chi2_contingency(table).pvalue) if len(table) > 1 else 1.0
