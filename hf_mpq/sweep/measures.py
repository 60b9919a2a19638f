"""What a search of settings can make as good as possible: columns of a row, and which way is better."""

DIRECTIONS = {
    "score": "maximize",
    "megabytes": "minimize",
    "milliseconds": "minimize",
    "code_bits": "minimize",
    "kl": "minimize",
    "agreement": "maximize",
    "unseen_kl": "minimize",
    "unseen_agreement": "maximize",
}
