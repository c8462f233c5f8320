//! Plugins: what is loaded, in which order, and what they hand to each other.
