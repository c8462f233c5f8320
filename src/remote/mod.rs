//! Remote: registries, and pulling images from them.
