#!/usr/bin/env bash
# scikit-learn's PCA of float32 activations, 8000 rows of 768, two of whose channels have a large constant part, as the
# massive channels of language models have.
# Expected: PCA centres first, so a constant that is added to a channel changes no component.
# Seen (scikit-learn 1.9.1): with ten times as many rows as columns, and up to 1000 columns, the solver is chosen that
# subtracts the means from the finished X.T @ X, in float32: rounding of the massive channels' squares becomes the first
# component (its cosine to the true one is 0.08, its variance 1.7 instead of 1.0). No warning is given. One row fewer,
# float64, or svd_solver="full" is right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q scikit-learn==1.9.1 numpy==2.4.6
"$folder/venv/bin/python" -W error - <<'PYTHON'
import sys

import numpy as np
import sklearn
from sklearn.decomposition import PCA

print("scikit-learn", sklearn.__version__, "numpy", np.__version__)
rows, columns = 7680, 768
generator = np.random.default_rng(0)
spread = generator.standard_normal((rows, columns)) * np.linspace(0.1, 0.2, columns)
spread += np.outer(generator.standard_normal(rows), np.ones(columns) / columns**0.5)  # the true first component
constant = np.zeros(columns)
constant[[100, 300]] = 3000, -1500
activations = (spread + constant).astype(np.float32)


def first(matrix, **settings):
    """Solver, first component and its variance."""
    fitted = PCA(n_components=2, **settings).fit(matrix)
    return fitted._fit_svd_solver, fitted.components_[0], float(fitted.explained_variance_[0])


solver, true, variance = first(activations.astype(np.float64))
cases = {
    "no massive channel": first(spread.astype(np.float32)),
    "massive channels": first(activations),
    "massive channels, a row fewer": first(activations[:-1]),
    "massive channels, solver full": first(activations, svd_solver="full"),
}
print(f"float64: {solver}, variance {variance:.2f}")
cosines = []
for name, (solver, component, variance) in cases.items():
    cosines.append(abs(float(component @ true)))
    print(f"{name}: {solver}, variance {variance:.2f}, cosine to float64's {cosines[-1]:.3f}")
print("right:", [cosine > 0.99 for cosine in cosines])
is_as_seen = [cosine > 0.99 for cosine in cosines] == [True, False, True, True]
sys.exit(0 if is_as_seen and cases["massive channels"][0] == "covariance_eigh" else "CHANGED")
PYTHON
