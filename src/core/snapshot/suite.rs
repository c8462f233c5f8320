//! What every snapshotter must do: run by each implementation's tests, as root, in a scratch directory.
