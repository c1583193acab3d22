"""Softmax losses whose logits are changed before: by a scale, by an offset per class, by a margin, by missing columns.

Without smoothing, an element's gradient is a·(p − onehot), p = softmax(s·z + b) and the label's entry of b lower by a
margin. So the logarithms of its entries show s and b, and the size of the label's entry shows the margin.
"""

import numpy as np


def text(observation, tolerance):
    """What is changed in the logits, as text; "" where this does not explain the gradient."""
    if observation.gradient is None:
        return ""
    g, z, labels = observation.gradient, observation.logits, observation.labels
    size = np.abs(g).max()
    absent = np.flatnonzero((np.abs(g) <= 1e-14 * size).all((0, 1)))
    kept = np.setdiff1d(np.arange(g.shape[-1]), absent)
    rows = np.isin(labels, kept)
    if len(kept) < 3 or not rows.any():
        return ""
    found = _scale_and_offsets(g[:, rows][..., kept], z[:, rows][..., kept], np.searchsorted(kept, labels[rows]))
    if found is None or found[0] <= 0 or not found[-1] <= 100 * tolerance:
        return ""
    scale, offsets, own, _ = found
    said = ["softmax cross-entropy"]
    if len(absent):
        said.append(f"without the columns {absent.tolist()}, which do not exist for it: class_mask=")
    if abs(scale - 1) > 1e-4:
        said.append(f"of {scale:.6g}·z (temperature {1 / scale:.6g})")
    if np.ptp(offsets) > 1e-4:
        said.append(f"of z + b, b = {np.round(offsets - offsets.mean(), 4).tolist()} (logit adjustment)")
    margin = offsets - own
    if np.ptp(margin) > 1e-4:
        said.append(f"with the label's logit lowered by a margin of its class, {np.round(margin, 4).tolist()}")
    elif abs(margin.mean()) > 1e-4:
        said.append(f"with the label's logit lowered by a margin, {margin.mean():.6g}")
    return ", ".join(said) if len(said) > 1 else ""


def _scale_and_offsets(g, z, labels):
    """(s, b, the label's entry of b by class, misfit); None where an entry has the wrong sign."""
    m, n, k = g.shape
    off = np.ones((n, k), bool)
    off[np.arange(n), labels] = False
    others = g[:, off].reshape(m, n, k - 1)
    if (others <= 0).any():
        return None
    zs = z[:, off].reshape(m, n, k - 1)
    classes = np.broadcast_to(np.nonzero(off)[1].reshape(n, k - 1), others.shape)
    logs = np.log(others)
    right = (logs - logs.mean(-1, keepdims=True)).ravel()
    design = np.concatenate([zs[..., None], np.eye(k)[classes]], axis=-1)
    design = (design - design.mean(2, keepdims=True)).reshape(-1, k + 1)
    solution = np.linalg.lstsq(design, right)[0]
    scale, offsets = float(solution[0]), solution[1:]
    misfit = np.abs(design @ solution - right).max()
    # −g_y = a·S/(S + exp(s·z_y + b_y)), S = Σ exp(s·z_k + b_k) over the others: linear in 1/a and exp(b_y)/a
    total = np.exp(scale * zs + offsets[classes]).sum(-1)
    ratio = np.exp(scale * z[:, np.arange(n), labels]) / total
    inverse = 1 / -g[:, np.arange(n), labels]
    own = np.full(k, np.nan)
    for label in range(k):
        at = labels == label
        if not at.any():
            continue
        columns = np.stack([np.ones(m * at.sum()), ratio[:, at].ravel()], axis=1)
        right = inverse[:, at].ravel()
        (intercept, slope), *_ = np.linalg.lstsq(columns, right)
        misfit = max(misfit, np.abs(columns @ (intercept, slope) / right - 1).max())
        own[label] = np.log(slope / intercept) if slope > 0 and intercept > 0 else np.nan
    own = np.where(np.isnan(own), offsets, own)
    return scale, offsets, own, float(misfit)
