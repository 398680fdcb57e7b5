"""Role vectors, axis and PCA of Lu et al. 2026, §2.1 and §3.1, written plainly by us."""

import numpy as np


def role_vector(activations):
    """Mean over rollouts; each rollout weighs the same."""
    return np.mean(np.stack(activations), axis=0)


def assistant_axis(default_activations, role_vectors):
    """Mean default activation minus the unweighted mean of the role vectors."""
    return role_vector(default_activations) - np.mean(np.stack(role_vectors), axis=0)


def principal_components(role_vectors):
    """Eigenvectors (rows) of the covariance of mean-centred role vectors, and variance shares."""
    centred = role_vectors - role_vectors.mean(0)
    values, columns = np.linalg.eigh(centred.T @ centred / (len(centred) - 1))
    return columns.T[::-1], values[::-1] / values.sum()


def loadings(role_vectors, component):
    """Cosine of each role vector, less their mean, with a component."""
    centred = role_vectors - role_vectors.mean(0)
    lengths = np.linalg.norm(centred, axis=1) * np.linalg.norm(component)
    return centred @ component / lengths


def area_under_curve(default, roles):
    """Share of pairs in which the default stands higher; a tie is half a win."""
    won = sum(1.0 if d > r else 0.5 if d == r else 0.0 for d in default for r in roles)
    return won / (len(default) * len(roles))


def d_prime(default, roles):
    """Distance of the means in pooled standard deviations."""
    return (np.mean(default) - np.mean(roles)) / np.sqrt((np.var(default) + np.var(roles)) / 2)
