"""Role vectors, axis and PCA of Lu et al. 2026, §2.1 and §3.1, written plainly by us."""

import numpy as np


def role_vector(activations):
    """Mean over rollouts; each rollout weighs the same."""
    return np.mean(np.stack(activations), axis=0)


def assistant_axis(default_activations, role_vectors):
    """Mean default activation minus the unweighted mean of the role vectors."""
    return role_vector(default_activations) - np.mean(np.stack(role_vectors), axis=0)


def loadings(role_vectors, component):
    """Cosine of each role vector, less their mean, with a component."""
    centred = role_vectors - role_vectors.mean(0)
    lengths = np.linalg.norm(centred, axis=1) * np.linalg.norm(component)
    return centred @ component / lengths
