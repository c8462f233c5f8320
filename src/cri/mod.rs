//! CRI: the kubelet's contract.
